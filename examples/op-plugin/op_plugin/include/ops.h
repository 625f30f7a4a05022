#pragma once
#include "op_plugin/OpInterface.h"
