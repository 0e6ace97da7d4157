"""accelerate + DeepSpeed ZeRO 0-3: data parallelism with sharded states and host offload."""
