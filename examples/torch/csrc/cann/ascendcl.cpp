// The stand-in CANN runtime: one device, always ready. Loaded with torch._C, so that a library that was linked
// against a stub of the same name finds this one in the process.
extern "C" {
int aclInit(const char*) { return 0; }
int aclrtGetDeviceCount(unsigned* count) {
  *count = 1;
  return 0;
}
int aclrtSetDevice(int device) { return device == 0 ? 0 : 1; }
const char* aclrtGetSocName() { return "StandIn"; }
}
