#include <stdio.h>
#include "greet.h"

int main(int argc, char **argv) {
    (void)argv;
    puts(greeting(argc));
    return 0;
}
