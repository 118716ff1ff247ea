"""Skills learnt apart, in one memory: python experiments/add_adapters.py START ONE TWO -o OUT

Each of the adapters went on from START; OUT is START and all that they have changed, added up (task arithmetic, Ilharco
et al. 2022, arXiv 2212.04089).
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from infini_attention.errors import ConfigError, InfiniError
from infini_attention.models.adapter_file import AdapterHeader, read_adapter_header, read_adapter_tensors, write_adapter


def add(start: Path, others: Sequence[Path]) -> tuple[AdapterHeader, dict[str, Tensor]]:
    """The sum, and what it says of itself. Raises `ConfigError` for adapters that did not go on from `start`."""
    header, first = read_adapter_header(start), load_file(start)
    total, about = dict(first), {start.name: header.about}
    shapes = {name: list(tensor.shape) for name, tensor in first.items()}
    for path in others:
        of = read_adapter_header(path)
        if (of.base, of.settings, of.lora) != (header.base, header.settings, header.lora):
            raise ConfigError(f"{path}: expected an adapter that went on from {start}; its base or settings are others")
        tensors = read_adapter_tensors(path, shapes)
        total = {name: tensor + (tensors[name] - first[name]) for name, tensor in total.items()}
        about[str(path)] = of.about
    return replace(header, about={"sum": about}), total


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("start", type=Path, metavar="START", help="the adapter that all others went on from")
    parser.add_argument("others", type=Path, nargs="+", metavar="ADAPTER", help="what was learnt from there")
    parser.add_argument("-o", "--out", type=Path, required=True, help="the file to write")
    options = parser.parse_args(arguments)
    try:
        header, total = add(options.start, options.others)
        write_adapter(options.out, header, total)
    except InfiniError as error:
        print(f"add_adapters.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
