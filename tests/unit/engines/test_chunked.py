"""A chunked loss is the plain one, gradients too, in a part of its memory."""

import multiprocessing
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from toolkit.engines.ds.chunked import chunked_loss_sum, loss_for_logits
from toolkit.engines.ds.loss import IGNORED, loss_sum
from toolkit.specs.workload import LOSS_BLOCK_COLUMNS, loss_block
