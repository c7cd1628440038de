"""How fast one process could be with no HTTP: parse, check, score, write."""

import time
from pathlib import Path

import msgspec

from modelyard.serving.codec import arrow_codec
from modelyard.serving.codec.decode import Parser
from modelyard.serving.inference.model import Model


def in_process(
    package: Path, bodies: dict[str, tuple[str, Path]], seconds: float = 1
) -> dict[str, float]:
    """Bodies a second, of each kind."""
    model = Model(package)
    parser = Parser(model.signature, 10_000)
    rates = {}
    for what, (kind, path) in bodies.items():
        body = path.read_bytes()
        count, start = 0, time.perf_counter()
        while (took := time.perf_counter() - start) < seconds:
            inputs = parser.parse(kind, body)
            scores = model.graph(inputs.numbers, inputs.categories)
            if inputs.form == "arrow":
                arrow_codec.write(model.columns(scores))
            else:
                msgspec.json.encode({"predictions": model.predictions(scores), "version": 1})
            count += 1
        rates[what] = count / took
    return rates
