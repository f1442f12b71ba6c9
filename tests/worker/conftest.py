from __future__ import annotations

import torch

# Small tensors: threads that wait for each other cost more than they bring, and on a busy machine ten times as much.
torch.set_num_threads(1)
