const char *greeting(int argc);
