"""Call counts of a model's methods, with its fast loops kept."""

from zf_pyro.networks import with_fast_form

IN_LOOPS = ("posterior", "transition")
"""Step functions that the fast loops replace; their counted versions keep the fast loops."""


def count_calls(net, counts, *names):
    """Count the calls of these methods of ``net`` in ``counts``, by name."""
    kind = type(net)

    def counted(name):
        plain = getattr(kind, name)

        def call(self, *args):
            counts[name] += 1
            return plain(self, *args)

        return with_fast_form(call) if name in IN_LOOPS else call

    net.__class__ = type(kind.__name__, (kind,), {name: counted(name) for name in names})
