#pragma once

extern "C" {
int aclInit(const char* config);
int aclrtGetDeviceCount(unsigned* count);
int aclrtSetDevice(int device);
const char* aclrtGetSocName();
}
