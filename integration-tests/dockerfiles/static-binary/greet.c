#include "greet.h"

const char *greeting(int argc) { return argc > 1 ? "version " VERSION : "hello"; }
