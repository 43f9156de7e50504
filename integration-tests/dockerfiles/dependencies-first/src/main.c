#include <stdio.h>

int one(void);
int two(void);

int main(void) {
    printf("%d\n", one() + two());
    return 0;
}
