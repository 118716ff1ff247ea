"""lm-eval reads our models as streams: whole texts in one pass, with the memory carried from window to window."""

import json
import math
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lm_eval.api.registry import get_model
from torch.nn import functional as F

from chats import chat_model, chat_tokenizer
from infini_attention.errors import ConfigError
from infini_attention.evaluation.harness import InfiniLM, main
from infini_attention.models.known import builtin_path
from infini_attention.models.loading import load_base, load_tokenizer
from tiny import SEGMENT, base_model, book, byte_tokenizer, infini_model, save_model

FAR = 10 * SEGMENT


def requests(*arguments):
    return [SimpleNamespace(args=each if isinstance(each, tuple) else (each,)) for each in arguments]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("models") / "tiny", infini_model())


@pytest.fixture(scope="module")
def lm(folder):
    return InfiniLM(str(folder), batch_size=1, device="cuda:0" if not torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="module")
def without_memory(folder):
    return InfiniLM(str(folder), memory="off")


@torch.inference_mode()
def whole(model, ids):
    """The log-likelihoods of all tokens but the first, of one pass over the whole text."""
    logits = model(torch.tensor([ids])).logits[0, :-1].double()
    return -F.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")


def test_its_name_is_registered():
    assert get_model("infini") is InfiniLM


class TestRolling:
    def test_it_is_one_pass_over_the_whole_stream(self, lm):
        texts = [book(1), book(700), "short"]
        sums = lm.loglikelihood_rolling(requests(*texts))
        for text, found in zip(texts, sums, strict=True):
            ids = [lm.prefix_token_id, *lm.tok_encode(text)]
            assert found == pytest.approx(float(whole(lm.model, ids).sum()), rel=1e-5)

    def tail(self, lm, fact):
        """The log-likelihood of what stands far behind `fact`: of all of the text, less that of its beginning."""
        head, tail = fact + book(FAR), book(FAR + 200)[FAR:]
        one, two = lm.loglikelihood_rolling(requests(head, head + tail))
        return two - one

    def test_a_far_back_fact_changes_it(self, lm, without_memory):
        """The fact stands ten segments before the tail: nothing but the memory can have carried it there."""
        assert abs(self.tail(lm, "The key is 1234.") - self.tail(lm, "The key is 9876.")) > 0.01
        off = [self.tail(without_memory, fact) for fact in ("The key is 1234.", "The key is 9876.")]
        assert off[0] == pytest.approx(off[1], abs=1e-3)


class TestLoglikelihood:
    def test_it_is_that_of_one_pass(self, lm):
        pairs = [
            (book(500), " and then"),
            (book(500), " said"),
            ("", "Once"),
            ("short ", "text"),
            (book(40), book(600)),
        ]
        for (context, continuation), (found, greedy) in zip(pairs, lm.loglikelihood(requests(*pairs)), strict=True):
            before = lm.tok_encode(context) or [lm.prefix_token_id]
            ids = lm.tok_encode(context + continuation) if context else [*before, *lm.tok_encode(continuation)]
            count = len(ids) - len(before) + (context != context.rstrip())  # the space goes to what is scored
            assert found == pytest.approx(float(whole(lm.model, ids)[-count:].sum()), rel=1e-5)
            assert greedy is False

    def test_what_the_model_would_write_is_greedy(self, lm):
        context = book(300)
        [written] = lm.generate_until(requests((context, {"until": [], "max_gen_toks": 1})))
        ids = lm.tok_encode(context)
        best = int(lm.model(torch.tensor([ids])).logits[0, -1].argmax())
        [(_, greedy)] = lm._loglikelihood_tokens([(None, ids, [best])])
        assert greedy is True
        assert written == lm.tokenizer.decode([best], skip_special_tokens=True)

    def test_a_far_back_fact_changes_it(self, lm, without_memory):
        for model, same in ((lm, False), (without_memory, True)):
            pairs = [(fact + book(FAR), " a few words more") for fact in ("The key is 1234.", "The key is 9876.")]
            (one, _), (two, _) = model.loglikelihood(requests(*pairs))
            assert (one == pytest.approx(two, abs=1e-4)) is same

    def test_a_context_is_read_once(self, lm, monkeypatch):
        reads = []
        monkeypatch.setattr(lm, "_read", lambda ids, read=lm._read: (reads.append(len(ids)), read(ids))[1])
        lm.loglikelihood(requests((book(200), " a"), (book(200), " b"), (book(200), " c"), ("other", " d")))
        assert reads == [len(book(200).encode()) - 1, 4]


class TestGenerating:
    def test_it_writes_what_generate_writes(self, lm):
        ids = torch.tensor([lm.tok_encode(book(200))])
        written = lm.model.generate(ids, max_new_tokens=24, do_sample=False)[0, ids.shape[1] :]
        expected = lm.tokenizer.decode(written, skip_special_tokens=True)
        [text] = lm.generate_until(requests((book(200), {"until": [], "max_gen_toks": 24})))
        assert text == expected
        stop = expected[5:7]
        stopped = lm.generate_until(requests((book(200), {"until": [stop], "max_gen_toks": 24})))
        assert stopped == [expected[: expected.index(stop)]]

    def test_it_never_samples(self, lm):
        with pytest.raises(ConfigError, match="writes greedily"):
            lm.generate_until(requests(("a", {"do_sample": True, "temperature": 0.7})))


def test_full_attention_is_evaluated_alike(tmp_path):
    folder = save_model(tmp_path / "base", base_model())
    lm, base = InfiniLM(str(folder), full_attention=True), load_base(folder)
    ids = [lm.prefix_token_id, *lm.tok_encode(book(300))]
    expected = whole(base, ids)
    assert lm.loglikelihood_rolling(requests(book(300)))[0] == pytest.approx(float(expected.sum()), rel=1e-5)
    [(found, _)] = lm.loglikelihood(requests((book(295), book(300)[295:])))
    assert found == pytest.approx(float(whole(base, ids[1:])[-5:].sum()), rel=1e-5)  # here the context comes first


def test_start_tokens_and_chat_templates(tmp_path):
    start = InfiniLM(str(save_model(tmp_path / "start", infini_model(), byte_tokenizer("<s>"))))
    assert start.tok_encode("ab")[0] == start.tok_encode("<s>ab")[0] == start.prefix_token_id
    assert len(start.tok_encode("<s>ab")) == len(start.tok_encode("ab")) == 3
    assert len(start.tok_encode("ab", add_special_tokens=False)) == 2
    chat = InfiniLM(str(save_model(tmp_path / "chat", chat_model(), chat_tokenizer())))
    text = chat.apply_chat_template([{"role": "user", "content": "Hello"}])
    assert "Hello" in text
    assert text == chat.tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello"}], tokenize=False, add_generation_prompt=True
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sed": 1}, "model_args has no sed"),
        ({"memory": "maybe"}, "memory must be on or off; got 'maybe'"),
        ({"dtype": "int"}, "dtype must be int8 or one of torch"),
        ({"full_attention": True, "rule": "delta"}, "full_attention converts nothing"),
        ({"full_attention": True, "memory": "off"}, "full_attention converts nothing"),
    ],
)
def test_mistakes(folder, options, words):
    with pytest.raises(ConfigError, match=words):
        InfiniLM(str(folder), **options)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of lm-eval and what it loads
def test_a_task_of_ones_own(folder, tmp_path, monkeypatch):
    """Through lm-eval itself, which knows the model by its name; nothing is downloaded."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    texts = [book(200), book(250)]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    (tmp_path / "own.yaml").write_text(
        "task: own\ndataset_path: json\n"
        f"dataset_kwargs:\n  data_files:\n    test: {tmp_path / 'rows.jsonl'}\n"
        "test_split: test\noutput_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: '{{text}}'\n"
        "metric_list:\n  - metric: byte_perplexity\n"
    )
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    result = simple_evaluate(model="infini", model_args=f"model={folder}", tasks=["own"], task_manager=manager)
    lm = InfiniLM(str(folder))
    bits = lm.loglikelihood_rolling(requests(*texts))
    nats = -sum(bits) / sum(len(text.encode()) for text in texts)
    assert result["results"]["own"]["byte_perplexity,none"] == pytest.approx(math.exp(nats), rel=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_tasks_of_ruler_that_need_no_hub(monkeypatch):
    """They make their texts with the tokenizer of a folder: each is read whole, and what is written is scored."""
    import lm_eval
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    monkeypatch.setattr("nltk.download", lambda name: False)  # what these tasks cut at sentences is not among them
    # lm-eval makes 500 samples for each, however few are asked for.
    monkeypatch.setattr("tqdm.tqdm", lambda samples, **options: islice(samples, 1))
    monkeypatch.setattr("lm_eval.tasks.ruler.prepare_niah.tqdm", lambda samples, **options: islice(samples, 1))
    reads = []
    monkeypatch.setattr(
        InfiniLM, "_read", lambda lm, ids, read=InfiniLM._read: (reads.append(len(ids)), read(lm, ids))[1]
    )
    tasks = {"niah_single_1": 128, "ruler_vt": 30, "ruler_cwe": 120, "ruler_fwe": 50}
    metadata = {"max_seq_lengths": [8192], "tokenizer": str(builtin_path())}
    folder = Path(lm_eval.__file__).parent / "tasks" / "ruler"
    manager = TaskManager(include_path=str(folder), include_defaults=False, metadata=metadata)
    result = simple_evaluate("infini", "model=builtin", tasks=[*tasks], task_manager=manager, bootstrap_iters=0)
    for (task, room), read in zip(tasks.items(), reads, strict=True):
        [sample] = result["samples"][task]
        assert sample["doc"]["outputs"]
        length = sample["doc"]["length"] - room  # some count the start of the answer too
        assert read == pytest.approx(length, abs=64), task
        assert 0.7 * 8192 < read <= 8192
        assert 0 <= result["results"][task]["8192,none"] <= 1
        assert isinstance(sample["resps"][0][0], str)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tasks_are_told_the_tokenizer(monkeypatch):
    """What RULER's tasks load is the model's own, by whatever name the model goes; one that is named stays."""
    from lm_eval.config.evaluate_config import EvaluatorConfig
    from lm_eval.tasks.ruler.common_utils import get_tokenizer, resolve_tokenizer_name

    told, text = [], book(300)

    def execute(cli, args):
        told.append(resolve_tokenizer_name(EvaluatorConfig.from_cli(args).metadata))
        if told[-1] != "mine":
            assert get_tokenizer(told[-1])(text).input_ids == load_tokenizer("builtin")(text).input_ids

    monkeypatch.setattr("lm_eval.__main__.HarnessCLI.execute", execute)
    command = ["harness", "run", "--model", "infini", "--model_args", "model=builtin,dtype=float32", "--tasks", "x"]
    for more in ([], ["--metadata", '{"max_seq_lengths": [4096], "tokenizer": "mine"}']):
        monkeypatch.setattr("sys.argv", [*command, *more])
        main()
    assert told[1] == "mine"
    assert not Path(told[0]).exists()  # nothing is left behind


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tasks_run_no_code_of_a_tokenizer(tmp_path, monkeypatch):
    """They load tokenizers with leave to run what stands beside them; the one that they are told names nothing."""
    from lm_eval.tasks.ruler.common_utils import get_tokenizer

    byte_tokenizer().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config["auto_map"] = {"AutoTokenizer": [None, "own.Own"]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "own.py").write_text("raise SystemExit('it was run')")
    read = []
    monkeypatch.setattr(
        "lm_eval.__main__.HarnessCLI.execute",
        lambda cli, args: read.append(get_tokenizer(args.metadata["tokenizer"])("abc").input_ids),
    )
    monkeypatch.setattr("sys.argv", ["harness", "run", "--model", "infini", "-a", f"model={tmp_path}", "--tasks", "x"])
    main()
    assert read == [byte_tokenizer()("abc").input_ids]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_model_that_is_not_there_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["harness", "run", "--model", "infini", "-a", "model=nowhere", "--tasks", "x"])
    with pytest.raises(SystemExit) as stopped:
        main()
    err = capsys.readouterr().err
    assert (stopped.value.code, err.startswith("infini: no model at 'nowhere'")) == (2, True), err


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_mistake_is_one_line(monkeypatch, capsys):
    def fail(*args):
        raise ConfigError("a thing\nthat is wrong")

    monkeypatch.setattr("lm_eval.__main__.HarnessCLI.execute", fail)
    monkeypatch.setattr("sys.argv", ["harness", "ls"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert (stopped.value.code, capsys.readouterr().err) == (2, "infini: a thing that is wrong\n")
