"""Text to vectors, in batches: a small transformer, made on the spot, over the standard library's docstrings.

Similar lengths are batched together (less padding), the output keeps the input's order, and killed workers cost no record.
"""

import json
import pkgutil
from pathlib import Path

import torch
from torch import nn

from plesio.batch import map_records

WIDTH, LONGEST = 64, 128


class Embedder(nn.Module):
    """Bytes to a vector: two layers of a transformer, random but fixed, averaged over the text."""

    def setup(self) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, batch_first=True, dropout=0.0)
        self.embedding, self.place = nn.Embedding(256, WIDTH), nn.Embedding(LONGEST, WIDTH)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.eval()

    def batch(self, records: list[dict]) -> list[dict]:
        texts = [list(record["text"].encode()[:LONGEST]) for record in records]
        longest = max(map(len, texts))
        ids = torch.tensor([text + [0] * (longest - len(text)) for text in texts])  # (batch, longest)
        blank = torch.arange(longest) >= torch.tensor([[len(text)] for text in texts])
        with torch.no_grad():
            states = self.layers(self.embedding(ids) + self.place.weight[:longest], src_key_padding_mask=blank)
        mean = states.masked_fill(blank[..., None], 0.0).sum(1) / (~blank).sum(1, keepdim=True)  # (batch, WIDTH)
        return [
            {"name": record["name"], "vector": [round(v, 4) for v in vector.tolist()]}
            for record, vector in zip(records, mean, strict=True)
        ]


def texts() -> list[dict]:
    """The first words of each module of the standard library that can be read as a file."""
    folder = Path(json.__file__).parents[1]
    found = []
    for module in sorted(pkgutil.iter_modules([str(folder)]), key=lambda module: module.name):
        path = folder / f"{module.name}.py"
        if path.is_file() and (text := path.read_text(errors="replace")[:400].strip()):
            found.append({"name": module.name, "text": text})
    return found


if __name__ == "__main__":
    records = texts()
    Path("texts.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    done = map_records(Embedder, "texts.jsonl", "vectors", batch=16, sort_by_length=True)
    lines = [line for path in sorted(Path("vectors").glob("part-*")) for line in path.read_text().splitlines()]
    rows = [json.loads(line) for line in lines]
    same = [row["name"] for row in rows] == [record["name"] for record in records]
    print(f"{len(rows)} of {done.records} texts are vectors of {len(rows[0]['vector'])}, in the input's order: {same}")
