#include "acl/acl.h"

// An error from everything: a program that meets a stub at run time learns of it at once.
int aclInit(const char*) { return 500000; }
int aclrtGetDeviceCount(unsigned*) { return 500000; }
int aclrtSetDevice(int) { return 500000; }
const char* aclrtGetSocName() { return nullptr; }
