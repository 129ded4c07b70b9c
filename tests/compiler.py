"""What the tests ask of XLA: they compile far longer than they compute, so it optimises nothing, in one piece, and without
its fusion emitters (which later versions cannot do without): that takes less than half the time."""

from importlib.metadata import version

QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
QUICK += " --xla_cpu_parallel_codegen_split_count=1"
if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11):
    QUICK += " --xla_cpu_use_fusion_emitters=false"
