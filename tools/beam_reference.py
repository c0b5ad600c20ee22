"""beam_reference.py SHARED: writes tests/data/generation/beams.json, what transformers' beam search gives for two small models.

    python tools/beam_reference.py SHARED     (transformers 4.57.6, optimum-onnx 0.1.0, onnxruntime 1.32; from the repository's root)

The models are tests/data/models/llama and models/seq2seq/bart of the folder SHARED (see CONTRIBUTING.md), run by Optimum's
classes over ONNX Runtime; the search is `generate` of transformers. A case is kept only if its result does not hang on rounding: it must stay when logits are moved by 1e-5.
"""
import json
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from optimum.onnxruntime import ORTModelForCausalLM, ORTModelForSeq2SeqLM
from transformers import LogitsProcessor, LogitsProcessorList

MODELS = {"llama": Path("tests/data/models/llama"), "bart": Path(sys.argv[1]) / "models/seq2seq/bart"}
PROMPTS = {"llama": [[24, 79, 85, 53, 55, 36], [5, 1, 90], [33]], "bart": [[65, 15, 95, 76, 94, 92, 87], [3, 44, 17]]}
CLASSES = {"llama": ORTModelForCausalLM, "bart": ORTModelForSeq2SeqLM}
# End ids that random models reach now and then.
ENDS = {"llama": [[77], [48, 77, 89]], "bart": [[10], [10, 77]]}
SEARCHES = [
    {"num_beams": 1},
    {"num_beams": 3},
    {"num_beams": 4, "length_penalty": 2.0},
    {"num_beams": 4, "length_penalty": -1.0},
    {"num_beams": 3, "early_stopping": True},
    {"num_beams": 3, "early_stopping": "never", "length_penalty": 0.5},
    {"num_beams": 3, "repetition_penalty": 1.3},
]


class Nudge(LogitsProcessor):
    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, input_ids, scores):
        return scores + 1e-5 * torch.randn(scores.shape, generator=self.generator)


def main():
    cases = []
    for name, cls in CLASSES.items():
        with tempfile.TemporaryDirectory() as folder:
            shutil.copytree(MODELS[name], folder, dirs_exist_ok=True, copy_function=shutil.copyfile)
            model = cls.from_pretrained(folder, use_io_binding=False)
            for prompt in PROMPTS[name]:
                for ends in ENDS[name]:
                    for search in SEARCHES:
                        case = run(model, prompt, ends, search)
                        nudged = [run(model, prompt, ends, search, seed)["ids"] for seed in range(4)]
                        if all(ids == case["ids"] for ids in nudged):
                            cases.append({"model": name, **case})
    folder = Path("tests/data/generation")
    folder.mkdir(exist_ok=True)
    lines = ",\n".join(json.dumps(c) for c in cases)
    (folder / "beams.json").write_text(f"[\n{lines}\n]\n")
    print(len(cases), "cases")


def run(model, prompt, ends, search, seed=None):
    beams = search["num_beams"]
    options = {"num_return_sequences": beams, "output_scores": True, "return_dict_in_generate": True}
    extra = {} if seed is None else {"logits_processor": LogitsProcessorList([Nudge(seed)])}
    input_ids = torch.tensor([prompt])
    out = model.generate(
        input_ids, attention_mask=torch.ones_like(input_ids), do_sample=False, max_new_tokens=12, eos_token_id=ends,
        pad_token_id=0, **search, **options, **extra)
    start = 1 if model.config.is_encoder_decoder else len(prompt)
    ids = [cut(row[start:].tolist(), ends) for row in out.sequences]
    scores = [] if beams == 1 else [round(x, 5) for x in out.sequences_scores.tolist()]
    return {"prompt": prompt, "ends": ends, "search": search, "ids": ids, "scores": scores}


def cut(ids, ends):
    for i, token in enumerate(ids):
        if token in ends:
            return ids[: i + 1]
    return ids


if __name__ == "__main__":
    main()
