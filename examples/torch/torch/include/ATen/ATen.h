#pragma once
#include <ATen/Tensor.h>

namespace at {
using Dimension = long;
}
