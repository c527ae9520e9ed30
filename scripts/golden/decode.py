"""What every decoder case asks of transformers: logits, hidden states and greedy tokens, with the margins checked."""

import torch

from .case import relative

STEPS = 64
# A step whose two best logits are nearer than this share of the logit scale is no evidence; take another seed.
MIN_MARGIN = 5e-4


def first_seed(name, attempt, seeds=range(500)):
    """Tries seeds until one gives good evidence."""
    for seed in seeds:
        if attempt(seed):
            return
    raise SystemExit(f"{name}: no seed gave greedy runs without a near tie")


LENGTHS = (1, 7, 33)


def prompts(vocab, seed, lengths=LENGTHS, first=4):
    """Random ids without the special tokens below `first`."""
    rng = torch.Generator().manual_seed(seed)
    return [torch.randint(first, vocab, (n,), generator=rng).tolist() for n in lengths]


def logits(model, ids):
    """f32 [tokens, vocab]"""
    return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()


def greedy(model, ids, steps=STEPS):
    """The arg-max tokens, without cache and without end tokens, and the smallest margin over the logit scale."""
    ids, new, margin = list(ids), [], float("inf")
    for _ in range(steps):
        last = logits(model, ids)[-1]
        best = torch.topk(last, 2).values
        margin = min(margin, float((best[0] - best[1]) / last.abs().max()))
        new.append(int(last.argmax()))
        ids.append(new[-1])
    return new, margin


def hidden_states(model, ids):
    """[(name, f32 [tokens, hidden])]: embedding output, after each layer (before the last norm), after the last norm."""
    base, caught = model.model, {}

    def keep(name):
        def hook(_module, _inputs, output):
            caught[name] = (output[0] if isinstance(output, tuple) else output).detach().clone()

        return hook

    handles = [base.embed_tokens.register_forward_hook(keep("hidden.0"))]
    handles += [layer.register_forward_hook(keep(f"hidden.{i + 1}")) for i, layer in enumerate(base.layers)]
    handles.append(base.norm.register_forward_hook(keep("hidden.norm")))
    logits(model, ids)
    for handle in handles:
        handle.remove()
    return [(name, value[0].float()) for name, value in caught.items()]


def record(case, model, asked):
    """Adds everything for the prompts `asked` to the case; the second prompt gets all logits and hidden states.

    Returns False when the greedy run is not good evidence: a near tie, or text that repeats one token.
    """
    runs = [greedy(model, ids) for ids in asked]
    if min(margin for _, margin in runs) < MIN_MARGIN or min(len(set(new)) for new, _ in runs) < 8:
        return False
    case.info["prompts"] = [
        {"ids": ids, "greedy": new, "min_margin": round(margin, 6)} for ids, (new, margin) in zip(asked, runs)
    ]
    case.info["all_logits_of"] = 1
    case.info["hidden_states_of"] = 1
    for i, ids in enumerate(asked):
        case.add(f"logits.{i}", logits(model, ids)[-1])
    case.add("all_logits", logits(model, asked[1]))
    for name, value in hidden_states(model, asked[1]):
        case.add(name, value)
    # How far rounding alone moves the logits: the same model with f64 matrices. Far below the tolerance of 1e-4.
    noise = relative(logits(model.double(), asked[-1])[-1], case.tensors[f"logits.{len(asked) - 1}"])
    model.float()
    assert noise < 1e-5, f"{case.name}: badly conditioned, {noise}"
    case.info["rounding_noise"] = float(f"{noise:.2g}")
    return True
