"""The devices."""
import torch_npu._C


def is_available():
    """Whether there is a device."""
    return device_count() > 0


def device_count():
    """How many devices there are."""
    return torch_npu._C._npu_getDeviceCount()


def get_device_name():
    """What the runtime calls device 0."""
    return torch_npu._C._npu_get_soc_name()
