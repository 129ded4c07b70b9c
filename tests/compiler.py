"""What the tests ask of XLA: they compile far longer than they compute, so it optimises nothing, and without its fusion
emitters it takes half the time."""

QUICK = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
