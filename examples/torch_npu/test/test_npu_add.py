import unittest

import torch_npu


class TestAdd(unittest.TestCase):
    def test_sum(self):
        self.assertEqual(torch_npu.npu_add([1.0, 2.0], [3.0, 4.0]), [4.0, 6.0])


if __name__ == "__main__":
    unittest.main()
