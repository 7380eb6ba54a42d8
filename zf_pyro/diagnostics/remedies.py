"""Remedies for a guide that fails a check: the end of the summary of the check."""

COST = "cost and gain on the quickstart's networks: docs/inference.md, 'Repairing a posterior'"

FOR_SEQUENCES = (
    "what to do: take more samples; or repair the guide for these sequences, guide = zf_pyro.inference.refine(net, x, "
    f"lengths), and give it on as to_arviz(..., posterior=guide); or take posterior='smoother' ({COST})"
)
"""For weights of given sequences."""
FOR_THE_LATENTS = (
    "what to do: anneal the KL weight from below 1, ZForcingELBO(Linear(0.2, 1.0, steps)), leave free nats, or train "
    "with the auxiliary, aux_weight=; see docs/training.md, 'See whether the auxiliary works'"
)
"""For latents that are not used."""
FOR_THE_GUIDE = (
    "what to do: train the guide further with the model fixed, zf_pyro.inference.fit_guide(net, (x, lengths)), or with "
    f"another objective, such as ImportanceWeightedELBO or FIVO ({COST})"
)
"""For a guide that is wrong for sequences of the model itself."""
