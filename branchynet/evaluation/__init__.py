"""What a network is worth: accuracy, cost and time with everything counted, beside the baselines it must beat.

May import artifact, models, network, codecs, exits and data; training only for recipes."""
