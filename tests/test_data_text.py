"""Reviews and docstrings: sentences, vocabulary, splits, counts and errors."""

import ast
import json
import sys
import warnings
from pathlib import Path

import pyro
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyro.infer import SVI

from zf_pyro import ZForcing, ZForcingELBO
from zf_pyro.data import LengthBatches, Loader, Sequences, Vocabulary, load_digits, load_docstrings, load_text
from zf_pyro.data.folders.splits import held_out
from zf_pyro.data.prepare import main
from zf_pyro.data.text.docstrings import library_sources, read_docstrings
from zf_pyro.data.text.imdb import prepare_imdb
from zf_pyro.data.text.reviews import Review, Reviews, read_reviews, split_reviews
from zf_pyro.data.text.sentences import sentences
from zf_pyro.data.text.vocabulary import split_words
from zf_pyro.emissions import Categorical

from .real_data import unpack

TEXTS = [
    "A good film. I liked it!<br /><br />The end is bad, though.",
    "What a film! It isn't good; it's great.",
    "Not a good film at all. I liked the end.",
    "I liked the film. The end!",
]


def tree(folder, num_train=6, num_test=2, unsup=0):
    """Write a small folder in the layout of aclImdb."""
    for part, number in (("train", num_train), ("test", num_test)):
        for feeling in ("pos", "neg"):
            (folder / part / feeling).mkdir(parents=True)
            for index in range(number):
                path = folder / part / feeling / f"{index}_{9 if feeling == 'pos' else 2}.txt"
                path.write_text(TEXTS[index % len(TEXTS)], encoding="utf-8")
    (folder / "train" / "unsup").mkdir()
    for index in range(unsup):
        (folder / "train" / "unsup" / f"{index}_0.txt").write_text("No rating here.", encoding="utf-8")
    return folder


def left_in(folder):
    return sorted(path.name for path in folder.iterdir())


# Sentences and words --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("One line\nanother line\r\n\nthird", ["One line", "another line", "third"]),
        ("First.<br /><br />Second<BR>third", ["First.", "Second", "third"]),
        ('He said "No!" Then he left.', ['He said "No!"', "Then he left."]),
        ('"What?" she asked. He left (at last.) Good.', ['"What?" she asked.', "He left (at last.)", "Good."]),
        ("Mr. Smith met J. Doe, e.g. Today vs. Tomorrow.", ["Mr. Smith met J. Doe, e.g. Today vs. Tomorrow."]),
        ("So do I. Then I left, etc. He said no. Good.", ["So do I.", "Then I left, etc.", "He said no.", "Good."]),
        ("It costs 3.50 dollars... and more. 7 of 10.", ["It costs 3.50 dollars... and more.", "7 of 10."]),
        ("parker and the vicious circle . he left .", ["parker and the vicious circle . he left ."]),
        ("  \n\t\n", []),
    ],
)
def test_sentences_end_where_the_rule_says(text, expected):
    assert sentences(text) == expected


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="aB1 .!?\"')\n<br/>é\u2026\u00a0", max_size=60))
def test_splitting_loses_nothing_but_white_space_and_line_breaks(text):
    found = sentences(text)
    assert all(sentence and sentence == sentence.strip() for sentence in found)
    bare = "".join(sentences(text.replace(" ", "").replace("\u00a0", "")))
    assert "".join("".join(found).split()) == "".join(bare.split()) or "<br" in text
    assert [again for sentence in found for again in sentences(sentence)] == found


def test_words_keep_apostrophes_and_numbers_and_stand_apart_from_punctuation():
    [words] = split_words(["Don\u2019t re-do it: it's 1,000.5 E\u0301TE_2 <eos>...\n"])
    assert words == [
        *("don't", "re", "-", "do", "it", ":", "it's", "1,000.5", "\u00e9te_2", "<", "eos", ">", ".", ".", "."),
    ]


# Vocabulary -----------------------------------------------------------------------------------------------------------


def test_the_vocabulary_holds_the_most_frequent_words_in_a_fixed_order():
    vocabulary = Vocabulary.of(["b b a a c c c", "d rare e e"], 100)
    assert [vocabulary.decode([number]) for number in (0, 2, 3, 4, 5)] == ["<unk>", "c", "a", "b", "e"]
    assert len(vocabulary) == 6
    assert vocabulary.sha256 == Vocabulary.of(["d rare e e", "b b a a c c c"], 100).sha256
    assert len(Vocabulary.of(["b b a a c c c"], 4)) == 4


def test_sentences_become_numbers_that_end_and_come_back():
    vocabulary = Vocabulary.of(["the end . the end ."] * 2, 100)
    [first, second] = vocabulary.encode(["The END.", "the start"])
    assert first[-1] == second[-1] == vocabulary.end == 1
    assert vocabulary.decode(torch.tensor(first)) == "the end ."
    assert vocabulary.decode([*first, 0, 0]) == "the end ."
    assert vocabulary.decode(second) == "the <unk>"


def test_special_tokens_written_in_a_text_are_its_words(tmp_path):
    vocabulary = Vocabulary.of(["a <eos> b <unk> ."] * 2, 100)
    [numbers] = vocabulary.encode(["a <eos> b"])
    assert numbers.index(vocabulary.end) == len(numbers) - 1
    assert vocabulary.decode(numbers) == "a < eos > b"
    vocabulary.write(tmp_path)
    again = Vocabulary.read(tmp_path, vocabulary.sha256)
    assert again.encode(["a <eos> b"]) == [numbers]
    assert again.sha256 == vocabulary.sha256


def test_numbers_of_no_word_and_too_small_vocabularies_are_refused():
    vocabulary = Vocabulary.of(["a a"], 10)
    for number in (-1, 3):
        with pytest.raises(ValueError, match=f"symbols must lie between 0 and 2, got {number}"):
            vocabulary.decode([number])
    with pytest.raises(ValueError, match=r"vocabulary_size must be at least 3 .*got 2"):
        Vocabulary.of(["a a"], 2)


def test_the_vocabulary_of_another_run_is_refused(tmp_path):
    for name, text in (("one", "Good film.\n" * 5), ("two", "Bad end.\n" * 5)):
        (tmp_path / f"{name}.txt").write_text(text)
        prepare_imdb(tmp_path / name, tmp_path / f"{name}.txt")
    one, two = load_text(tmp_path / "one"), load_text(tmp_path / "two")
    one.vocabulary.require(one.record.notes["vocabulary"]["sha256"], "the net in runs/one")
    with pytest.raises(ValueError, match="the net in runs/two was made with another vocabulary"):
        one.vocabulary.require(two.vocabulary.sha256, "the net in runs/two")
    (tmp_path / "one" / "tokenizer.json").write_bytes((tmp_path / "two" / "tokenizer.json").read_bytes())
    for use in (lambda: load_text(tmp_path / "one"), lambda: prepare_imdb(tmp_path / "one", tmp_path / "one.txt")):
        with pytest.raises(ValueError, match=r"one/tokenizer\.json is not the vocabulary that the data .*--overwrite"):
            use()
    (tmp_path / "one" / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"one/tokenizer\.json is missing"):
        load_text(tmp_path / "one")


# Reviews --------------------------------------------------------------------------------------------------------------


def test_a_tree_is_read_with_its_official_parts_in_the_order_of_numbers(tmp_path):
    reviews = read_reviews(tree(tmp_path / "aclImdb", num_train=12))
    assert [len(reviews.train), len(reviews.test)] == [24, 4]
    assert [review.name for review in reviews.train[8:12]] == [f"train/pos/{n}_9.txt" for n in (8, 9, 10, 11)]
    assert reviews.sources[0] == ["train/pos", 3 * sum(len(text.encode()) for text in TEXTS)]
    assert read_reviews(tmp_path) == reviews, "the folder that holds aclImdb does, too"


def test_reviews_without_ratings_are_read_when_asked_for(tmp_path):
    source = tree(tmp_path / "aclImdb", unsup=5)
    assert len(read_reviews(source).train) == 12
    assert len(read_reviews(source, unsup=True).train) == 17


def test_each_sentence_has_the_label_of_its_review(tmp_path):
    source = tree(tmp_path / "aclImdb")
    prepare_imdb(tmp_path / "out", source)
    text = load_text(tmp_path / "out")
    for part in ("train", "validation", "test"):
        documents = split_reviews(read_reviews(source))[part]
        expected = [review.label for review in documents for _ in sentences(review.text)]
        assert text.labels(part) == expected, "all sentences here are short"
        assert len(expected) == len(getattr(text, part))
    assert set(text.labels("test")) == {"pos", "neg"}
    with pytest.raises(ValueError, match=r"part must be one of \['test', 'train', 'validation'\], got 'dev'"):
        text.labels("dev")


def test_reviews_of_a_file_have_no_labels(tmp_path):
    (tmp_path / "a.txt").write_text("A good film.\nI liked it. It was long.\nThe end.\n" * 10)
    prepare_imdb(tmp_path / "out", tmp_path / "a.txt")
    assert load_text(tmp_path / "out").labels("test") is None


TABLES = {
    "a.txt": "A good film.\nI liked it.\n",
    "a.csv": 'id,review\n1,"A good film."\n2,I liked it.\n',
    "b.csv": '\ufeffreview,sentiment\r\n"A good film.",positive\r\nI liked it.,negative\r\n',
    "a.tsv": 'id\treview\n1\tA good film.\n2\t"I liked it."\n',
}


@pytest.mark.parametrize("name", TABLES)
def test_files_of_reviews_hold_the_same_texts_in_any_form(tmp_path, name):
    (tmp_path / name).write_bytes(TABLES[name].encode())
    assert [review.text for review in read_reviews(tmp_path / name).train] == ["A good film.", "I liked it."]


def test_a_text_in_a_table_may_hold_line_breaks_and_quotes(tmp_path):
    (tmp_path / "a.csv").write_text('text\n"One, ""two"".\nThree\u2028four."\nFive\n', encoding="utf-8")
    reviews = read_reviews(tmp_path / "a.csv", text_column="text").train
    assert [review.text for review in reviews] == ['One, "two".\nThree\u2028four.', "Five"]


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.txt", b"", r"a\.txt is empty: give a file with a review a line"),
        ("a.txt", b"\n \n", "is empty"),
        ("a.txt", b"Good.\n\nBad.\n", r"a\.txt, line 2: empty review: delete the line"),
        ("a.txt", b"Good.\ncaf\xe9\n", r"not UTF-8: byte 0xe9 at position 9, .*iconv -f windows-1252 -t utf-8"),
        ("a.txt", "Good.".encode("utf-16"), "not UTF-8: byte 0xff at position 0, .*iconv -f utf-16 -t utf-8"),
        ("a.csv", b"", r"a\.csv has no column 'review', its first line names none: the file is empty"),
        ("a.csv", b"review\n", r"a\.csv is empty"),
        (
            "a.csv",
            b"text,label\nGood.,1\n",
            "has no column 'review', its first line names 'text', 'label': .*text_column",
        ),
        ("a.csv", b"label,review\n1,Good.\n2,\n", r"a\.csv, line 3: empty review"),
        ("a.csv", b"label,review\n1,Good.\n2\n", r"a\.csv, line 3: empty review"),
        ("a.csv", b'review\nGood.\n"Bad.\n', r"a\.csv, after line 2: unexpected end of data: quote texts"),
        ("a.tsv", b"review\nGo\xffod.\n", r"a\.tsv is not UTF-8: byte 0xff at position 9"),
    ],
)
def test_files_that_cannot_be_used_are_refused_and_nothing_is_left(tmp_path, name, content, complaint):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=complaint) as caught:
        prepare_imdb(tmp_path / "out", tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert left_in(tmp_path) == [name]


def test_a_tree_with_an_empty_or_foreign_review_is_refused_by_the_file(tmp_path):
    source = tree(tmp_path / "aclImdb")
    (source / "test" / "neg" / "1_2.txt").write_text(" \n")
    with pytest.raises(ValueError, match=r"test/neg/1_2\.txt is an empty review: delete the file"):
        prepare_imdb(tmp_path / "out", source)
    (source / "test" / "neg" / "1_2.txt").write_bytes(b"na\xefve")
    with pytest.raises(ValueError, match=r"test/neg/1_2\.txt is not UTF-8: byte 0xef at position 2"):
        prepare_imdb(tmp_path / "out", source)
    assert left_in(tmp_path) == ["aclImdb"]


def test_missing_sources_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist: give the aclImdb folder"):
        read_reviews(tmp_path / "nowhere")
    source = tree(tmp_path / "aclImdb")
    with pytest.raises(FileNotFoundError, match=r"train/unsup holds no reviews .*give the aclImdb folder, which holds"):
        read_reviews(source, unsup=True)
    with pytest.raises(FileNotFoundError, match=r"train/pos holds no reviews"):
        read_reviews(source / "test")
    (tmp_path / "a.txt").write_text("Good.\n")
    with pytest.raises(ValueError, match="unsup is a folder of the aclImdb tree"):
        read_reviews(tmp_path / "a.txt", unsup=True)


# Preparation ----------------------------------------------------------------------------------------------------------


def test_short_sentences_are_taken_and_everything_is_counted(tmp_path):
    record = prepare_imdb(tmp_path / "out", tree(tmp_path / "aclImdb"), max_words=5)
    sets = load_text(tmp_path / "out")
    assert int(sets.train.lengths.max()) <= 6, "five words and the end token"
    train = [sets.vocabulary.decode(sets.train[index]) for index in range(len(sets.train))]
    assert "a good film ." in train
    assert not any("though" in sentence for sentence in train), "the sentence has seven words"
    for name, part in (("train", sets.train), ("validation", sets.validation), ("test", sets.test)):
        counts = record.notes[name]
        assert counts["taken"] == len(part)
        assert counts["sentences"] == counts["taken"] + counts["too_long"] + counts["without_words"]
        assert counts["words"] == sum(len(item) - 1 for item in part)
        assert counts["unknown_words"] == sum(int((item == 0).sum()) for item in part)
        assert counts["out_of_vocabulary"] == counts["unknown_words"] / counts["words"]
        assert all(int(item[-1]) == 1 and int((item == 1).sum()) == 1 for item in part)
        assert part[0].dtype == torch.int64
    assert [record.notes[name]["documents"] for name in ("train", "validation", "test")] == [11, 1, 4]
    assert record.notes["vocabulary"]["size"] == len(sets.vocabulary)
    assert record.notes["test"]["also_in_train"] == len(sets.test), "the same four texts"


def test_words_of_the_training_sentences_alone_make_the_vocabulary(tmp_path):
    source = tree(tmp_path / "aclImdb")
    (source / "test" / "pos" / "0_9.txt").write_text("Unseen unseen words. A film.")
    record = prepare_imdb(tmp_path / "out", source)
    sets = load_text(tmp_path / "out")
    assert sets.vocabulary.decode(sets.test[0]) == "<unk> <unk> <unk> ."
    assert record.notes["test"]["unknown_words"] >= 3
    small = prepare_imdb(tmp_path / "small", source, vocabulary_size=5)
    assert small.notes["vocabulary"]["size"] == 5
    assert small.notes["train"]["out_of_vocabulary"] > record.notes["train"]["out_of_vocabulary"]


def test_sentences_of_punctuation_alone_are_left_out(tmp_path):
    (tmp_path / "a.txt").write_text("Good film.<br />) .<br />...\n" * 5)
    record = prepare_imdb(tmp_path / "out", tmp_path / "a.txt")
    counts = record.notes["train"]
    assert (counts["documents"], counts["taken"], counts["without_words"]) == (3, 3, 6)


def test_a_repeated_preparation_is_recognised_and_another_one_refused(tmp_path):
    source = tree(tmp_path / "aclImdb")
    record = prepare_imdb(tmp_path / "out", source)
    stamps = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert prepare_imdb(tmp_path / "out", source) == record
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == stamps
    with pytest.raises(FileExistsError, match="max_words 16 there, 8 now"):
        prepare_imdb(tmp_path / "out", source, max_words=8)
    (source / "train" / "pos" / "0_9.txt").write_text(TEXTS[0][::-1])
    with pytest.raises(FileExistsError, match="sha256"):
        prepare_imdb(tmp_path / "out", source)
    assert prepare_imdb(tmp_path / "out", source, overwrite=True).settings != record.settings
    assert "tokenizer.json" in left_in(tmp_path / "out")


def test_requests_that_cannot_be_met_are_refused_and_nothing_is_left(tmp_path):
    source = tree(tmp_path / "aclImdb")
    with pytest.raises(ValueError, match="max_words must be at least 1, got 0"):
        prepare_imdb(tmp_path / "out", source, max_words=0)
    with pytest.raises(ValueError, match=r"vocabulary_size must be at least 3 .*got 2"):
        prepare_imdb(tmp_path / "out", source, vocabulary_size=2)
    with pytest.raises(ValueError, match=r"no sentence of the \d+ in train has at most 1 words: set max_words higher"):
        prepare_imdb(tmp_path / "out", source, max_words=1)
    (tmp_path / "a.txt").write_text("Good.\nBad.\n")
    with pytest.raises(ValueError, match=r"parts of 1, 1 cannot be held out of 2: .*give more data"):
        prepare_imdb(tmp_path / "out", tmp_path / "a.txt")
    assert left_in(tmp_path) == ["a.txt", "aclImdb"]


def test_images_are_refused_as_text(tmp_path):
    load_digits(tmp_path / "out")
    with pytest.raises(ValueError, match="holds digits, no text"):
        load_text(tmp_path / "out")


def test_without_tokenizers_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r"pip install zf-pyro\[data\]"):
        split_words(["a"])


def test_held_out_names_depend_on_the_names_alone():
    names = [f"review {index}" for index in range(50)]
    rest, first, second = held_out(names, (5, 7))
    assert sorted(rest + first + second) == list(range(50))
    assert [len(first), len(second)] == [5, 7]
    shuffled = names[::-1]
    assert {shuffled[index] for index in held_out(shuffled, (5, 7))[1]} == {names[index] for index in first}
    assert first == [1, 2, 4, 31, 49], "the same on every machine"


def test_a_source_without_a_test_set_gives_a_tenth_to_it():
    reviews = Reviews([Review(f"a.txt:{line}", "text") for line in range(100)], [], [])
    parts = split_reviews(reviews)
    assert {name: len(part) for name, part in parts.items()} == {"train": 80, "validation": 10, "test": 10}
    assert len({review.name for part in parts.values() for review in part}) == 100


# Docstrings -----------------------------------------------------------------------------------------------------------

MODULE = '''
"""A module's own line.

    indented, no prose

Second paragraph
over two lines. And "more".

>>> 1 + 1
2
"""

class Thing:
    """Of a class."""

    async def method(self):
        r"""Of a method: \\d."""
        "not a docstring"

def plain(): pass
'''


def test_prose_of_docstrings_is_read_module_by_module(tmp_path):
    for name in ("pkg/__init__.py", "pkg/part.py", "test/test_it.py", "pkg/tests/more.py", "site-packages/x.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(MODULE)
    (tmp_path / "silent.py").write_text("x = 1\n")
    documents = read_docstrings(tmp_path, library_sources(tmp_path))
    assert [document.name for document in documents] == ["pkg", "pkg.part"]
    assert documents[0].text.split("\n") == [
        *("A module's own line.", 'Second paragraph over two lines. And "more".', "Of a class.", "Of a method: \\d."),
    ]
    with pytest.raises(FileNotFoundError, match="holds no Python sources to take docstrings from"):
        library_sources(tmp_path / "nowhere")


@pytest.mark.slow
def test_the_library_of_this_python_needs_no_network(tmp_path):
    sets = load_docstrings(tmp_path / "out", max_words=16, vocabulary_size=2000)
    assert len(sets.vocabulary) == 2000
    assert min(len(part) for part in sets[:3]) > 100
    assert int(sets.train.lengths.max()) == 17
    assert ["ast.py", Path(ast.__file__).stat().st_size] in sets.record.sources
    modules = [sets.record.notes[name]["documents"] for name in ("train", "validation", "test")]
    assert modules[1] == modules[2] == sum(modules) // 10
    stamp = (tmp_path / "out" / "record.json").stat().st_mtime_ns
    again = load_docstrings(tmp_path / "out", max_words=16, vocabulary_size=2000)
    assert (tmp_path / "out" / "record.json").stat().st_mtime_ns == stamp
    assert torch.equal(again.test[0], sets.test[0])


# The real shape, and the command --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_shaped_tree_has_1800_and_200_reviews(tmp_path):
    source = unpack("imdb/aclImdb_shaped_movie_reviews.tar.xz", tmp_path)
    reviews = read_reviews(source)
    assert [len(reviews.train), len(reviews.test)] == [1800, 200]
    assert len({review.name for review in reviews.train}) == 1800
    record = prepare_imdb(tmp_path / "out", source / "aclImdb")
    assert [record.notes[name]["documents"] for name in ("train", "validation", "test")] == [1620, 180, 200]
    assert 0.0 < record.notes["test"]["out_of_vocabulary"] < 0.1
    test = Sequences(tmp_path / "out", "test")
    assert len(test) == record.notes["test"]["taken"]
    assert int(test.lengths.max()) == 17


def test_the_command_prepares_reviews_and_says_what_it_made(tmp_path, capsys):
    main(["imdb", "--source", str(tree(tmp_path / "aclImdb")), "--out", str(tmp_path / "out")])
    said = capsys.readouterr().out
    assert "test: 10 sequences" in said
    assert "vocabulary: " in said
    assert "unknown: train " in said
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert set(record["notes"]) == {"vocabulary", "train", "validation", "test"}
    with pytest.raises(SystemExit, match=r"error: .*none does not exist: give the aclImdb folder"):
        main(["imdb", "--source", str(tmp_path / "none"), "--out", str(tmp_path / "out2")])


def test_the_command_prepares_images(tmp_path, capsys):
    main(["digits", "--out", str(tmp_path / "digits")])
    assert "train: 1,257 sequences, 80,448 frames of 1" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"error: .* holds no binarized_mnist_train\.amat"):
        main(["mnist", "--source", str(tmp_path), "--out", str(tmp_path / "mnist")])
    assert left_in(tmp_path) == ["digits"]


def test_reading_sources_leaves_the_warnings_of_others_alone(tmp_path):
    (tmp_path / "odd.py").write_text('"""Has an \\d escape."""\n')
    before = list(warnings.filters)
    assert read_docstrings(tmp_path, library_sources(tmp_path))[0].text == "Has an \\d escape."
    assert warnings.filters == before


def test_prepared_text_trains_a_net(tmp_path):
    prepare_imdb(tmp_path / "out", tree(tmp_path / "aclImdb"))
    sets = load_text(tmp_path / "out")
    net = ZForcing(Categorical(len(sets.vocabulary)), embed_dim=4, hidden_dim=5, latent_dim=2, mlp_dim=4)
    svi = SVI(net.model, net.guide, pyro.optim.Adam({"lr": 1e-2}), loss=ZForcingELBO())
    batches = Loader(sets.train, LengthBatches(sets.train.lengths, 8))
    losses = [svi.step(x, lengths) / int(lengths.sum()) for _ in range(8) for x, lengths in batches]
    assert losses[-1] < losses[0], "nats a word, the end token among them"
    written = [sets.vocabulary.decode(sentence) for sentence in net.model(num_steps=6, batch_shape=(20,))]
    assert any(written)
    assert all(len(sentence.split()) <= 6 for sentence in written)
