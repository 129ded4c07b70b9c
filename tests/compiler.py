"""What the tests ask of XLA: they compile far longer than they compute, so it optimises nothing, and without its fusion
emitters (which later versions cannot do without) it takes half the time."""

from importlib.metadata import version

QUICK = "--xla_backend_optimization_level=0"
if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11):
    QUICK += " --xla_cpu_use_fusion_emitters=false"
