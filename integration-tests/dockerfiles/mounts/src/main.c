#include <stdio.h>

int main(void) {
    puts("from a mount");
    return 0;
}
