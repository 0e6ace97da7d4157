"""DeepSpeed's pipeline engine: stages of decoder layers, with tensor and data parallelism beside them (3D)."""
