#include "hccl/hccl.h"

int HcclGetRankSize(void*, unsigned*) { return 1; }
