"""torch's threads rest while our kernels work, and come back."""

import torch

from fmgs_nerfstudio.kernels.threads import one_torch_thread


def test_one_thread_and_then_as_before() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with one_torch_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
