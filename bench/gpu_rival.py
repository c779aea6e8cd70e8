"""transformers' own continuous batching on the same card, same shape and load as `bench gpu`.

Random weights of Llama-2-7B's shape, bfloat16; prompts of random ids; greedy, nothing ends early.
Run twice over, so that what the first run compiles, records or allocates is not counted.

    python bench/gpu_rival.py --streams 64
"""

import argparse
import json
import time

import torch
import transformers

TINY = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "vocab_size": 128}


def make_model(device: str, tiny: bool) -> transformers.LlamaForCausalLM:
    config = transformers.LlamaConfig(
        **(TINY if tiny else {"vocab_size": 32000}),
        max_position_embeddings=4096,
        attn_implementation="sdpa",
        num_attention_heads=4 if tiny else 32,
        dtype=torch.bfloat16,
    )
    with torch.device(device):
        model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    return model.eval()


def output_tok_s(
    model: transformers.LlamaForCausalLM, streams: int, prompt_tokens: int, output_tokens: int
) -> float:
    """Tokens per second over the whole run, prefill included; the faster of two timed runs."""
    generator = torch.Generator().manual_seed(streams)
    size = (streams, prompt_tokens)
    prompts = torch.randint(3, model.config.vocab_size, size, generator=generator).tolist()
    options = transformers.GenerationConfig(
        max_new_tokens=output_tokens, do_sample=False, eos_token_id=-1, pad_token_id=0
    )
    best = 0.0
    for run in range(3):
        start_s = time.perf_counter()
        outputs = model.generate_batch(
            prompts, generation_config=options, persistent_manager=True, warmup=True
        )
        seconds = time.perf_counter() - start_s
        drawn = sum(len(output.generated_tokens) for output in outputs.values())
        if drawn != streams * output_tokens:
            raise SystemExit(f"{drawn} tokens came instead of {streams * output_tokens}")
        if run:
            best = max(best, drawn / seconds)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--output-tokens", type=int, default=128)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a small model, to try the script")
    args = parser.parse_args()
    model = make_model(args.device, args.tiny)
    speed = output_tok_s(model, args.streams, args.prompt_tokens, args.output_tokens)
    print(f"{args.streams} streams: {speed:,.0f} tok/s", flush=True)
    versions = {"transformers": transformers.__version__, "torch": torch.__version__}
    print(
        json.dumps(
            {"benchmark": "gpu rival", "streams": args.streams, "output_tok_s": speed, **versions}
        )
    )


if __name__ == "__main__":
    main()
