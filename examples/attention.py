"""The attention measures without a run: which heads an answer depends on, and distillation of their maps.

`python examples/attention.py`
"""

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import seekr
from seekr.builtin import builtin_model, builtin_rows

tokenizer = AutoTokenizer.from_pretrained(builtin_model())
teacher = AutoModelForCausalLM.from_pretrained(builtin_model()).eval()
student = AutoModelForCausalLM.from_pretrained(builtin_model()).eval()
with torch.no_grad():  # as if it had learned something else
    for parameter in student.parameters():
        parameter.add_(0.05 * parameter.std() * torch.randn_like(parameter))

row = builtin_rows("upper", "train", seed=0, count=1)[0]
prompt, answer = (tokenizer(row[key], add_special_tokens=False)["input_ids"] for key in ("prompt", "answer"))
batch = {
    "input_ids": torch.tensor([prompt + answer]),
    "attention_mask": torch.ones(1, len(prompt + answer), dtype=torch.long),
    "labels": torch.tensor([[-100] * len(prompt) + answer]),
}
importance = seekr.measure_sensitivity(teacher, batch) * seekr.measure_change(teacher, student, batch)
heads = seekr.select_heads(importance, layer_budget=2, head_budget=4)
loss = seekr.attention_distillation_loss(student, teacher, batch, heads)
loss.backward()
print({layer: chosen.tolist() for layer, chosen in heads.items()}, f"{loss.item():.4f} nats")
