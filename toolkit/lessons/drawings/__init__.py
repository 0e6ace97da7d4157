"""What the lessons measured, as pictures for the notebook."""

from toolkit.lessons.drawings.collectives import draw_all_reduce_bytes, draw_ring
from toolkit.lessons.drawings.descents import draw_descents, draw_states
from toolkit.lessons.drawings.gradients import draw_accumulation, draw_compression
from toolkit.lessons.drawings.precision import draw_magnitudes, draw_master_weights, draw_scaling
from toolkit.lessons.drawings.products import draw_products
from toolkit.lessons.drawings.servers import draw_federated, draw_races, draw_staleness
from toolkit.lessons.drawings.timelines import draw_bubbles, draw_pipelines

__all__ = [
    "draw_accumulation",
    "draw_all_reduce_bytes",
    "draw_bubbles",
    "draw_compression",
    "draw_descents",
    "draw_federated",
    "draw_magnitudes",
    "draw_master_weights",
    "draw_pipelines",
    "draw_products",
    "draw_races",
    "draw_ring",
    "draw_scaling",
    "draw_staleness",
    "draw_states",
]
