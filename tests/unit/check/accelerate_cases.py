"""Broken and good accelerate config files as data.

`^` stands before the key on whose line the finding is expected; without it the finding is of the whole file, on line 1.
"""

from typing import NamedTuple

USUAL = {
    "compute_environment": "LOCAL_MACHINE",
    "distributed_type": "DEEPSPEED",
    "num_processes": "8",
    "num_machines": "1",
    "use_cpu": "false",
}
STAGE3 = """\
deepspeed_config:
  zero_stage: 3
  gradient_clipping: 1.0
  zero3_init_flag: true
  zero3_save_16bit_model: true
"""
NAMED = "deepspeed_config:\n  deepspeed_config_file: ds_config.json\n"
FSDP = "distributed_type: FSDP\nfsdp_config:\n  fsdp_version: 2\n  fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP\n"


class Broken(NamedTuple):
    name: str
    text: str
    path: str
    words: str
    severity: str = "error"


BROKEN = (
    Broken("unknown at the top", "^num_procesess: 8\n" + STAGE3, "num_procesess", "did you mean `num_processes`"),
    Broken("unknown in a section", STAGE3 + "  ^zero3_save_16bits_model: true\n",
           "deepspeed_config.zero3_save_16bits_model", "did you mean `zero3_save_16bit_model`"),
    Broken("without a prefix", "deepspeed_config:\n  gradient_clipping: 1.0\n  ^multinode_launcher: pdsh\n",
           "deepspeed_config.multinode_launcher", "did you mean `deepspeed_multinode_launcher`"),
    Broken("no type", "distributed_typ: DEEPSPEED\n", "distributed_type", "`distributed_type` is missing"),
    Broken("unknown type", "^distributed_type: DEEP_SPEED\n", "distributed_type", "DEEPSPEED"),
    Broken("use_cpu", "^use_cpu: true\n" + STAGE3, "use_cpu", "beside distributed_type DEEPSPEED"),
    Broken("precision beside a file", "^mixed_precision: bf16\n" + NAMED, "mixed_precision", "stands beside"),
    Broken("stage beside a file", NAMED + "  ^zero_stage: 2\n", "deepspeed_config.zero_stage", "stands beside"),
    Broken("clipping beside a file", NAMED + "  ^gradient_clipping: 1.0\n", "deepspeed_config.gradient_clipping",
           "stands beside"),
    Broken("YAML's no", "^mixed_precision: no\n" + STAGE3, "mixed_precision", "truth value"),
    Broken("weights offloaded at stage 2",
           "deepspeed_config:\n  zero_stage: 2\n  gradient_clipping: 1.0\n  ^offload_param_device: cpu\n",
           "deepspeed_config.offload_param_device", "ZeRO-3 alone"),
    Broken("nvme without a path", STAGE3 + "  ^offload_optimizer_device: nvme\n",
           "deepspeed_config.offload_optimizer_device", "offload_optimizer_nvme_path"),
    Broken("stage 4", "deepspeed_config:\n  gradient_clipping: 1.0\n  ^zero_stage: 4\n", "deepspeed_config.zero_stage",
           "0, 1, 2 or 3"),
    Broken("ranks and machines", "^num_processes: 7\nnum_machines: 2\nmain_process_ip: a\nmain_process_port: 29500\n"
           + STAGE3 + "  deepspeed_multinode_launcher: standard\n", "num_processes", "2 machines do not divide"),
    Broken("no rendezvous", "^num_machines: 2\nmain_process_port: 29500\n" + STAGE3, "num_machines",
           "`main_process_ip`", "warning"),
    Broken("any port on two machines", "num_machines: 2\nmain_process_ip: a\n^main_process_port: 0\n" + STAGE3,
           "main_process_port", "another free port"),
    Broken("pdsh", "num_machines: 2\nmain_process_ip: a\nmain_process_port: 29500\n^" + STAGE3, "deepspeed_config",
           "needs a hostfile", "warning"),
    Broken("no such file", "deepspeed_config:\n  ^deepspeed_config_file: nowhere.json\n",
           "deepspeed_config.deepspeed_config_file", "neither here", "warning"),
    Broken("Megatron's context parallelism",
           "distributed_type: MEGATRON_LM\n^megatron_lm_config:\n  megatron_lm_tp_degree: 2\n", "megatron_lm_config",
           "default is 2"),
    Broken("unused section", STAGE3 + "^fsdp_config:\n  fsdp_version: 2\n", "fsdp_config", "distributed_type FSDP",
           "warning"),
    Broken("sizes", "distributed_type: FSDP\n^parallelism_config:\n  parallelism_config_tp_size: 3\n",
           "parallelism_config", "multiply to 3"),
    Broken("sequence ranks", STAGE3 + "parallelism_config:\n  ^parallelism_config_sp_size: 3\n",
           "parallelism_config.parallelism_config_sp_size", "does not divide 8"),
    Broken("two ways along the sequence",
           STAGE3 + "parallelism_config:\n  parallelism_config_cp_size: 2\n  ^parallelism_config_sp_size: 2\n",
           "parallelism_config.parallelism_config_sp_size", "exclude each other"),
    Broken("another letter case", "^distributed_type: DeepSpeed\n" + STAGE3, "distributed_type", "DEEPSPEED"),
    Broken("NO without quotes and ranks", "^distributed_type: NO\nnum_machines: 1\n", "distributed_type", "NO without"),
    Broken("GPUs as a list", "^gpu_ids: [0, 1]\n" + STAGE3, "gpu_ids", "needs text"),
    Broken("one GPU of several", "distributed_type: MULTI_GPU\n^gpu_ids: '3'\n", "gpu_ids", "names one GPU"),
    Broken("no process", "^num_processes: 0\n" + STAGE3, "num_processes", "above 0"),
    Broken("the third of two machines", "num_machines: 2\n^machine_rank: 2\nmain_process_ip: a\n"
           "main_process_port: 29500\n" + STAGE3 + "  deepspeed_multinode_launcher: standard\n", "machine_rank",
           "the last one has 1"),
    Broken("ranks in quotes", "num_machines: 2\n^num_processes: '8'\nmain_process_ip: a\nmain_process_port: 29500\n"
           + STAGE3 + "  deepspeed_multinode_launcher: standard\n", "num_processes", "with several machines"),
    Broken("outside its section", "distributed_type: MEGATRON_LM\n^megatron_lm_tp_size: 4\nmegatron_lm_config:\n"
           "  megatron_lm_context_parallel_size: 1\n", "megatron_lm_tp_size", "which has `megatron_lm_tp_degree`"),
    Broken("degrees of Megatron", "distributed_type: MEGATRON_LM\n^megatron_lm_config:\n  megatron_lm_tp_degree: 3\n"
           "  megatron_lm_context_parallel_size: 1\n", "megatron_lm_config", "a replica has 3 ranks"),
    Broken("of an older questionnaire", "^ipex_config: {ipex: true}\n" + STAGE3, "ipex_config", "no such key any more"),
    Broken("FSDP's wrapping", FSDP.replace("  fsdp_auto", "  ^fsdp_auto").replace("TRANSFORMER_BASED", "LAYER"),
           "fsdp_config.fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP"),
    Broken("FSDP 3", "distributed_type: FSDP\nfsdp_config:\n  ^fsdp_version: 3\n", "fsdp_config.fsdp_version",
           "FSDP 1 and 2"),
    Broken("FSDP 2 like 1", FSDP + "  ^fsdp_reshard_after_forward: FULL_SHARD\n",
           "fsdp_config.fsdp_reshard_after_forward", "wants true or false"),
    Broken("FSDP's offload alone", FSDP + "  ^fsdp_activation_checkpointing_offload: true\n",
           "fsdp_config.fsdp_activation_checkpointing_offload", "needs fsdp_version 2"),
    Broken("torch's name", STAGE3 + "dynamo_config:\n  ^dynamo_backend: TORCHINDUCTOR\n",
           "dynamo_config.dynamo_backend", "INDUCTOR"),
    Broken("FSDP loading", FSDP + "  fsdp_sync_module_states: false\n  ^fsdp_cpu_ram_efficient_loading: true\n",
           "fsdp_config.fsdp_cpu_ram_efficient_loading", "fsdp_sync_module_states"),
    Broken("half a process", "^num_processes: 1.5\n" + STAGE3, "num_processes", "needs a whole number"),
    Broken("key given twice", "debug: false\n^debug: true\n" + STAGE3, "", "given twice"),
    Broken("broken YAML", "debug: [\ndebug: true\n^" + STAGE3, "", "not YAML"),
)  # fmt: skip

GOOD = {
    "stage 3": STAGE3,
    "a file": NAMED,
    "two machines": "num_machines: 2\nmain_process_ip: a\nmain_process_port: 29500\n" + STAGE3
    + "  deepspeed_multinode_launcher: standard\n",
    "precision": "mixed_precision: bf16\n" + STAGE3,
    "quoted no": "mixed_precision: 'no'\ndowncast_bf16: 'no'\n" + STAGE3,
    "FSDP": FSDP + "  fsdp_cpu_ram_efficient_loading: true\n",
    "FSDP without prefixes": "distributed_type: FSDP\nfsdp_config:\n  version: 2\n  offload_params: false\n",
    "DDP": "distributed_type: MULTI_GPU\ngpu_ids: all\nrdzv_backend: static\nsame_network: true\n",
    "ranks on CPU": "distributed_type: MULTI_CPU\nuse_cpu: true\n",
    "Megatron": "distributed_type: MEGATRON_LM\nmegatron_lm_config:\n  megatron_lm_tp_degree: 2\n"
    "  megatron_lm_context_parallel_size: 1\n",
    "sequence parallel with replicas": STAGE3 + "parallelism_config:\n  parallelism_config_sp_size: 2\n",
    "numbers and words in quotes": "num_processes: '8'\nmachine_rank: '0'\nmixed_precision: BF16\n"
    + STAGE3.replace("3\n", "'3'\n").replace("1.0", "'1.0'") + "  offload_param_device: CPU\n",
    "NO without quotes": "distributed_type: NO\n",
    "empty sections": "fsdp_config:\ndeepspeed_config: {}\ndynamo_config:\ndistributed_type: MULTI_GPU\ngpu_ids: 2,3\n",
    "FSDP in small letters": FSDP + "  fsdp_sharding_strategy: full_shard\n  fsdp_backward_prefetch: 1\n"
    "dynamo_config:\n  dynamo_backend: inductor\n",
    "YAML's words": "debug: off\nuse_cpu: no\ndowncast_bf16: no\ngpu_ids:\n" + STAGE3,
    "anchors": "num_processes: &n 8\n" + STAGE3 + "parallelism_config:\n  parallelism_config_sp_size: *n\n",
    "sequence parallel": STAGE3 + "parallelism_config:\n  parallelism_config_sp_size: 8\n",
    "tpu keys that the questionnaire writes": STAGE3 + "tpu_env: []\ntpu_use_cluster: false\ntpu_use_sudo: false\n",
}  # fmt: skip


def complete(text: str) -> str:
    plain = text.replace("^", "")
    return text + "".join(f"{key}: {value}\n" for key, value in USUAL.items() if f"{key}:" not in plain)
