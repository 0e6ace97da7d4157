"""What nvidia-smi prints on machines of different kinds: the keys that are read, in the shape of their drivers."""

_HEAD = '<?xml version="1.0" ?>\n<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v{schema}.dtd">\n<nvidia_smi_log>\n'


def xml(*gpus: str, driver: str = "550.54.15", cuda: str = "12.4", schema: int = 12) -> str:
    """A whole log."""
    head = f"\t<driver_version>{driver}</driver_version>\n\t<cuda_version>{cuda}</cuda_version>\n"
    return _HEAD.format(schema=schema) + head + "".join(gpus) + "</nvidia_smi_log>\n"


def hopper(*, used: int = 4, fabric: str = "Completed", pending: str = "No", failure: str = "No", lost: int = 0) -> str:
    """One H100 of a board of eight, driver 550."""
    return f"""\t<gpu id="00000000:1B:00.0">
\t\t<product_name>NVIDIA H100 80GB HBM3</product_name>
\t\t<mig_mode>
\t\t\t<current_mig>Disabled</current_mig>
\t\t\t<pending_mig>Disabled</pending_mig>
\t\t</mig_mode>
\t\t<mig_devices>
\t\t\tNone
\t\t</mig_devices>
\t\t<serial>1650000000001</serial>
\t\t<uuid>GPU-11111111-aaaa-bbbb-cccc-000000000001</uuid>
\t\t<gpu_reset_status>
\t\t\t<reset_required>No</reset_required>
\t\t\t<drain_and_reset_recommended>N/A</drain_and_reset_recommended>
\t\t</gpu_reset_status>
\t\t<pci>
\t\t\t<pci_gpu_link_info>
\t\t\t\t<pcie_gen>
\t\t\t\t\t<max_link_gen>5</max_link_gen>
\t\t\t\t\t<current_link_gen>5</current_link_gen>
\t\t\t\t</pcie_gen>
\t\t\t\t<link_widths>
\t\t\t\t\t<max_link_width>16x</max_link_width>
\t\t\t\t\t<current_link_width>16x</current_link_width>
\t\t\t\t</link_widths>
\t\t\t</pci_gpu_link_info>
\t\t</pci>
\t\t<clocks_event_reasons>
\t\t\t<clocks_event_reason_gpu_idle>Active</clocks_event_reason_gpu_idle>
\t\t\t<clocks_event_reason_sw_power_cap>Not Active</clocks_event_reason_sw_power_cap>
\t\t\t<clocks_event_reason_hw_slowdown>Not Active</clocks_event_reason_hw_slowdown>
\t\t</clocks_event_reasons>
\t\t<fb_memory_usage>
\t\t\t<total>81559 MiB</total>
\t\t\t<reserved>551 MiB</reserved>
\t\t\t<used>{used} MiB</used>
\t\t\t<free>{81559 - used} MiB</free>
\t\t</fb_memory_usage>
\t\t<compute_mode>Default</compute_mode>
\t\t<ecc_errors>
\t\t\t<volatile>
\t\t\t\t<sram_correctable>0</sram_correctable>
\t\t\t\t<sram_uncorrectable_parity>0</sram_uncorrectable_parity>
\t\t\t\t<sram_uncorrectable_secded>0</sram_uncorrectable_secded>
\t\t\t\t<dram_correctable>0</dram_correctable>
\t\t\t\t<dram_uncorrectable>{lost}</dram_uncorrectable>
\t\t\t</volatile>
\t\t\t<aggregate>
\t\t\t\t<dram_uncorrectable>7</dram_uncorrectable>
\t\t\t</aggregate>
\t\t</ecc_errors>
\t\t<remapped_rows>
\t\t\t<remapped_row_corr>0</remapped_row_corr>
\t\t\t<remapped_row_unc>0</remapped_row_unc>
\t\t\t<remapped_row_pending>{pending}</remapped_row_pending>
\t\t\t<remapped_row_failure>{failure}</remapped_row_failure>
\t\t</remapped_rows>
\t\t<fabric>
\t\t\t<state>{fabric}</state>
\t\t\t<status>Success</status>
\t\t</fabric>
\t\t<processes>
\t\t</processes>
\t</gpu>
"""


AMPERE_MIG = """    <gpu id="00000000:01:00.0">
        <product_name>NVIDIA A100-SXM4-80GB</product_name>
        <mig_mode>
            <current_mig>Enabled</current_mig>
            <pending_mig>Enabled</pending_mig>
        </mig_mode>
        <mig_devices>
            <mig_device>
                <index>0</index>
                <gpu_instance_id>3</gpu_instance_id>
                <fb_memory_usage>
                    <total>19968 MiB</total>
                    <used>12 MiB</used>
                </fb_memory_usage>
            </mig_device>
            <mig_device>
                <index>1</index>
                <gpu_instance_id>4</gpu_instance_id>
                <fb_memory_usage>
                    <total>N/A</total>
                    <used>N/A</used>
                </fb_memory_usage>
            </mig_device>
        </mig_devices>
        <fb_memory_usage>
            <total>81920 MiB</total>
            <used>N/A</used>
        </fb_memory_usage>
        <compute_mode>Default</compute_mode>
        <remapped_rows>N/A</remapped_rows>
        <fabric>
            <state>N/A</state>
            <status>N/A</status>
        </fabric>
    </gpu>
"""
"""One A100 in parts, driver 535; a container sees no use of memory."""

GEFORCE = """\t<gpu id="00000000:01:00.0">
\t\t<product_name>NVIDIA GeForce RTX 4090</product_name>
\t\t<mig_mode>
\t\t\t<current_mig>N/A</current_mig>
\t\t\t<pending_mig>N/A</pending_mig>
\t\t</mig_mode>
\t\t<gpu_recovery_action>None</gpu_recovery_action>
\t\t<pci>
\t\t\t<pci_gpu_link_info>
\t\t\t\t<link_widths>
\t\t\t\t\t<max_link_width>16x</max_link_width>
\t\t\t\t\t<current_link_width>4x</current_link_width>
\t\t\t\t</link_widths>
\t\t\t</pci_gpu_link_info>
\t\t</pci>
\t\t<clocks_throttle_reasons>
\t\t\t<clocks_throttle_reason_gpu_idle>Not Active</clocks_throttle_reason_gpu_idle>
\t\t\t<clocks_throttle_reason_sw_power_cap>Active</clocks_throttle_reason_sw_power_cap>
\t\t\t<clocks_throttle_reason_hw_slowdown>Active</clocks_throttle_reason_hw_slowdown>
\t\t\t<clocks_throttle_reason_hw_thermal_slowdown>Active</clocks_throttle_reason_hw_thermal_slowdown>
\t\t</clocks_throttle_reasons>
\t\t<fb_memory_usage>
\t\t\t<total>24564 MiB</total>
\t\t\t<used>9216 MiB</used>
\t\t</fb_memory_usage>
\t\t<compute_mode>Exclusive_Process</compute_mode>
\t\t<ecc_errors>
\t\t\t<volatile>
\t\t\t\t<sram_correctable>N/A</sram_correctable>
\t\t\t\t<sram_uncorrectable>N/A</sram_uncorrectable>
\t\t\t</volatile>
\t\t</ecc_errors>
\t\t<retired_pages>
\t\t\t<pending_retirement>N/A</pending_retirement>
\t\t</retired_pages>
\t\t<processes>
\t\t\t<process_info>
\t\t\t\t<pid>2003</pid>
\t\t\t\t<type>G</type>
\t\t\t\t<process_name>/usr/lib/xorg/Xorg</process_name>
\t\t\t</process_info>
\t\t\t<process_info>
\t\t\t\t<pid>4242</pid>
\t\t\t\t<type>C</type>
\t\t\t\t<process_name>python</process_name>
\t\t\t</process_info>
\t\t</processes>
\t</gpu>
"""
"""A workstation's, hot, on four lanes, with a display and a program."""

VOLTA = """\t<gpu id="00000000:06:00.0">
\t\t<product_name>Tesla V100-SXM2-32GB</product_name>
\t\t<fb_memory_usage>
\t\t\t<total>32510 MiB</total>
\t\t\t<used>0 MiB</used>
\t\t</fb_memory_usage>
\t\t<compute_mode>Default</compute_mode>
\t\t<ecc_errors>
\t\t\t<volatile>
\t\t\t\t<single_bit>
\t\t\t\t\t<total>0</total>
\t\t\t\t</single_bit>
\t\t\t\t<double_bit>
\t\t\t\t\t<device_memory>2</device_memory>
\t\t\t\t\t<total>2</total>
\t\t\t\t</double_bit>
\t\t\t</volatile>
\t\t</ecc_errors>
\t\t<retired_pages>
\t\t\t<pending_retirement>Yes</pending_retirement>
\t\t</retired_pages>
\t</gpu>
"""
"""In the keys of a driver of 2019."""

SHARED_MEMORY = """\t<gpu id="0000000F:01:00.0">
\t\t<product_name>NVIDIA GB10</product_name>
\t\t<fb_memory_usage>
\t\t\t<total>N/A</total>
\t\t\t<used>N/A</used>
\t\t</fb_memory_usage>
\t\t<compute_mode>Requested functionality has been deprecated</compute_mode>
\t</gpu>
"""
"""A GPU without memory of its own."""

LEGEND = """
Legend:

  X    = Self
  SYS  = Connection traversing PCIe as well as the SMP interconnect between NUMA nodes (e.g., QPI/UPI)
  NV#  = Connection traversing a bonded set of # NVLinks

NIC Legend:

  NIC0: mlx5_0
  NIC1: mlx5_1
"""


def nvswitch_matrix() -> str:
    """`nvidia-smi topo -m` on eight H100: tabs, an underlined head, adapters, two NUMA nodes."""
    names = [f"GPU{number}" for number in range(8)] + ["NIC0", "NIC1"]
    lines = ["\t\x1b[4m" + "\t".join([*names, "CPU Affinity", "NUMA Affinity", "GPU NUMA ID"]) + "\x1b[0m"]
    for number in range(8):
        links = [" X " if other == number else "NV18" for other in range(8)]
        ways = ["PXB" if number == 0 else "NODE", "SYS"] if number < 4 else ["SYS", "PXB" if number == 4 else "NODE"]
        cores = "0-55,112-167\t0" if number < 4 else "56-111,168-223\t1"
        lines.append(f"GPU{number}\t" + "\t".join([*links, *ways]) + f"\t{cores}\t\tN/A")
    lines.append("NIC0\tPXB\tNODE\tNODE\tNODE\tSYS\tSYS\tSYS\tSYS\t X \tSYS\t\t\t\t")
    lines.append("NIC1\tSYS\tSYS\tSYS\tSYS\tPXB\tNODE\tNODE\tNODE\tSYS\t X \t\t\t\t")
    return "\n".join(lines) + "\n" + LEGEND


BRIDGED_MATRIX = """\tGPU0\tGPU1\tGPU2\tGPU3\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID
GPU0\t X \tNV12\tSYS\tSYS\t0-23\t0\t\tN/A
GPU1\tNV12\t X \tSYS\tSYS\t24-47\t1\t\tN/A
GPU2\tSYS\tSYS\t X \tNV12\t48-71\t2\t\tN/A
GPU3\tSYS\tSYS\tNV12\t X \t72-95\t3\t\tN/A
"""
"""Four A100 PCIe, two bridges."""

GEFORCE_MATRIX = """    GPU0\tGPU1\tGPU2\tGPU3\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID
    GPU0\t X \tSYS\tSYS\tSYS\t0-47\t0\t\tN/A
    GPU1\tSYS\t X \tSYS\tSYS\t0-47\t0\t\tN/A
    GPU2\tSYS\tSYS\t X \tSYS\t0-47\t0\t\tN/A
    GPU3\tSYS\tSYS\tSYS\t X \t0-47\t0\t\tN/A
"""
"""Four RTX 4090."""

OLD_MATRIX = """        GPU0    GPU1    mlx5_0  CPU Affinity
GPU0     X      NV6     PIX     0-23,48-71
GPU1    NV6      X      PXB     0-23,48-71
mlx5_0  PIX     PXB      X
"""
"""Columns between spaces, adapters by their own names, no NUMA column."""

ONE_GPU_MATRIX = "\tGPU0\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\nGPU0\t X \t0-15\t0\t\tN/A\n"

NO_PEERS = " \tGPU0\tGPU1\t\n GPU0\tX\tGNS\t\n GPU1\tGNS\tX\t\n\nLegend:\n\n  X    = Self\n  OK   = Status Ok\n"
PEERS = " \tGPU0\tGPU1\t\n GPU0\tX\tOK\t\n GPU1\tOK\tX\t\n"
