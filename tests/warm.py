"""The last import of the server that ranks are forked from."""

import gc

# DeepSpeed collects garbage when an engine starts and when it ends; looking through what the libraries have made by
# then took half a second of every rank.
gc.collect()
gc.freeze()
