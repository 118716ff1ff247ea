"""How much of a reference a text has: ROUGE (Lin 2004), as Google's `rouge-score` computes it."""

from collections.abc import Callable

from infini_attention.errors import ConfigError

KINDS = ("rouge1", "rouge2", "rougeL")
MEAN = "geometric_mean"

Scores = dict[str, float]


def rouge_scorer() -> Callable[[str, str], Scores]:
    """`score(reference, text)` gives the F-measures of `KINDS`, with stemming, and their geometric mean.

    Raises:
        ConfigError: `rouge-score` is not installed.
    """
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise ConfigError(f"{error}; ROUGE needs more: pip install 'infini-attention[eval]'") from error
    scorer = RougeScorer(list(KINDS), use_stemmer=True)

    def score(reference: str, text: str) -> Scores:
        found = scorer.score(reference, text)
        scores = {kind: float(found[kind].fmeasure) for kind in KINDS}
        product = scores["rouge1"] * scores["rouge2"] * scores["rougeL"]
        return scores | {MEAN: product ** (1 / 3)}

    return score
