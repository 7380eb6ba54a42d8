"""IMDB, the paper's language-modelling experiment: sentences of reviews, word by word.

Without ``--data`` it runs on the docstrings of Python's standard library, which need no download:

    python examples/imdb.py --out runs/docstrings

With the aclImdb folder, or any .txt, .csv or .tsv file of reviews:

    python examples/imdb.py --data /corpora/aclImdb --preset paper --device cuda --out runs/imdb

``--out`` then holds results.json (perplexity per word, end token included), figure.png, the model, and sentences.txt
with new sentences and with interpolations between test sentences in latent space. For the aclImdb tree results.json
also says how well a linear classifier tells good reviews from bad ones by the latents of a single sentence.
"""

import functools
import tempfile
from pathlib import Path

from zf_pyro import to_arviz
from zf_pyro.data import TextSets, collate, load_text, prepare_docstrings, prepare_imdb
from zf_pyro.diagnostics import linear_probe
from zf_pyro.emissions import Categorical
from zf_pyro.evaluation import active_units, summarise
from zf_pyro.experiments import (
    Preset,
    Run,
    command_line,
    evaluation_loader,
    fit_model,
    prepared_data,
    save,
    scores_of,
    spread,
    training_loader,
    write_results,
)
from zf_pyro.models import StochasticRNN

PRESETS = {
    # The paper's sizes for IMDB could not be checked. Sizes: our choice. KL weight: the released code.
    "paper": Preset(
        embed_dim=300,
        hidden_dim=500,
        latent_dim=64,
        mlp_dim=500,
        batch_size=32,
        learning_rate=1e-3,
        max_steps=100_000,
        annealing_steps=16_000,
        aux_weight=(0.005, 0.0),
        validate_every=2000,
    ),
    "small": Preset(
        embed_dim=64,
        hidden_dim=96,
        latent_dim=16,
        mlp_dim=64,
        batch_size=32,
        learning_rate=2e-3,
        max_steps=1000,
        annealing_steps=300,
        aux_weight=(0.005, 0.0),
        dropout=0.3,
        validate_every=100,
    ),
}
SMOKE = "The film was long. The end was good! We liked the end. The cast was good, and the film was good.\n"


def imdb(run: Run, data: Path | None = None, max_words: int = 16, vocabulary_size: int = 16_000) -> None:
    """Train a stochastic recurrent network on sentences and report the perplexity of the test sentences.

    Args:
        run: Flags shared by all experiments.
        data: The aclImdb folder, a file of reviews, or a prepared folder. By default, Python's docstrings.
        max_words: Greatest length of a sentence in words, without the end token. Longer ones are left out.
        vocabulary_size: Greatest size of the vocabulary, with the unknown and the end token.
    """
    preset = run.choose(PRESETS)
    limits = {"max_words": max_words, "vocabulary_size": vocabulary_size}
    with tempfile.TemporaryDirectory() as temporary:
        if run.smoke:
            data = Path(temporary) / "reviews.txt"
            data.write_text(SMOKE * 40, encoding="utf-8")
        prepare = functools.partial(prepare_imdb, **limits)
        if data is None:
            prepare = lambda out, _: prepare_docstrings(out, **limits)  # noqa: E731
        text = load_text(prepared_data(run, data, prepare))
    checks = spread(text.validation, run.validation_sequences)
    fitted = fit_model(
        run,
        preset,
        Categorical(len(text.vocabulary)),
        training_loader(text.train, preset.batch_size, seed=run.seed, share=run.share),
        training_loader(checks, preset.batch_size, shuffle=False, share=run.share),
        evaluation_loader(text.train, preset.batch_size),
    )
    scores = {
        split: scores_of(run, fitted.model, evaluation_loader(data, preset.batch_size, count))
        for split, data, count in (("test", text.test, run.test_sequences), ("validation", checks, None))
        if split in run.splits
    }
    more = fitted.facts
    more["out_of_vocabulary"] = text.record.notes["test"]["out_of_vocabulary"]
    if isinstance(fitted.model, StochasticRNN) and "test" in run.splits:
        x, lengths = collate([text.test[i] for i in range(min(256, len(text.test)))])
        device = fitted.model.emission_layer.weight.device
        more["active_units"] = active_units(fitted.model, x.to(device), lengths.to(device))
        if text.labels("test") is not None:
            more["sentiment"] = sentiment(fitted.model, text)
        (run.out / "sentences.txt").write_text(sentences(fitted.model, text), encoding="utf-8")
    save(fitted.model, run.out / "net")
    write_results(
        run,
        preset,
        text.record,
        {split: summarise(found) for split, found in scores.items()},
        scores,
        value="word",
        **more,
    )


def sentiment(net: StochasticRNN, text: TextSets, most: int = 2000, folds: int = 5) -> dict[str, float] | None:
    """Whether a review is good or bad, read off the mean latents of single test sentences by a linear classifier.

    Args:
        net: the trained model.
        text: its data, with labels of reviews.
        most: sentences at most, spread over the test set.
        folds: of the cross-validation.

    Returns:
        The fields of :class:`zf_pyro.diagnostics.Probe`; None if a label has fewer sentences than folds.
    """
    device, places = net.emission_layer.weight.device, range(0, len(text.test), -(-len(text.test) // most))
    labels = [(text.labels("test") or [])[i] for i in places]
    if min(map(labels.count, ("pos", "neg"))) < folds:
        return None
    x, lengths = collate([text.test[i] for i in places])
    data = to_arviz(net.eval(), x.to(device), lengths.to(device), num_samples=50, groups=("posterior",))
    return linear_probe(data, labels, folds=folds)._asdict()


def sentences(net: StochasticRNN, text: TextSets, pairs: int = 3) -> str:
    """Generated sentences, and interpolations between pairs of test sentences."""
    words, device = text.vocabulary, net.emission_layer.weight.device
    lines = []
    for title, choice in {
        "new sentences": {},
        "new sentences from the nucleus of 0.9": {"top_p": 0.9},
        "the likeliest words for drawn latents": {"greedy": True},
    }.items():
        drawn = net.generate(8, 20, stop=words.end, **choice)
        lines += [f"# {title}", *map(words.decode, drawn), ""]
    for pair in range(min(pairs, len(text.test) // 2)):
        a, b = (text.test[2 * pair + i].unsqueeze(0).to(device) for i in range(2))
        between = net.interpolate(a, b, 7)
        lines += ["# from one test sentence to another", words.decode(a[0])]
        lines += [words.decode(x[:n]) for x, n in zip(between.x[:, 0], between.lengths[:, 0], strict=True)]
        lines += [words.decode(b[0]), ""]
    return "\n".join(lines)


if __name__ == "__main__":
    command_line(imdb)
