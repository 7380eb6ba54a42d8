"""Remedies for a guide that fails a check: the end of the summary of the check.

Costs and gains are of the Z-Forcing network of the quickstart and its 370 test utterances, by ``benchmarks/refine.py``:
the gap is the particle filter's evidence less that of 256 samples of the guide, in nats per sequence.
"""

MORE = "see docs/inference.md, 'Repairing a posterior'"
REFINED = "gap 4.3 to -0.4 nats, flagged steps 75 to 15 %, in 26 seconds for the quickstart's 370 utterances"
"""Cost and gain of ``refine``."""
FITTED = "gap 4.3 to 1.6 nats, flagged steps 75 to 54 %, in 41 seconds for the quickstart's 370 utterances"
"""Cost and gain of ``fit_guide``."""

FOR_SEQUENCES = (
    "what to do: take more samples; or repair the guide for these sequences, guide = zf_pyro.inference.refine(net, x, "
    f"lengths) ({REFINED}), and give it on as to_arviz(..., posterior=guide); or take posterior='smoother'; {MORE}"
)
"""For weights of given sequences."""
FOR_THE_LATENTS = (
    "what to do: anneal the KL weight from below 1, ZForcingELBO(Linear(0.2, 1.0, steps)), leave free nats, or train "
    "with the auxiliary, aux_weight=; see docs/training.md, 'See whether the auxiliary works'"
)
"""For latents that are not used."""
FOR_THE_GUIDE = (
    "what to do: train the guide further with the model fixed, zf_pyro.inference.fit_guide(net, (x, lengths)) "
    f"({FITTED}), or with another objective, such as ImportanceWeightedELBO or FIVO; {MORE}"
)
"""For a guide that is wrong for sequences of the model itself."""
