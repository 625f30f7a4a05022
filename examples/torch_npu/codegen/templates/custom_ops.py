import torch
import torch_npu

${custom_ops}
