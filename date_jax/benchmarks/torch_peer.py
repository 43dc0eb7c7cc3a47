"""Our network, losses and optimizer in PyTorch: transformers' Swin and BERT, torch's encoder.

`compare` runs it in a process that has PyTorch (`pip install torch transformers`). It does without
augmentation and moving average, which our training has.
"""

import itertools
import time
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from safetensors.numpy import load_file

from date_jax.benchmarks import step
from date_jax.benchmarks.children import answer
from date_jax.errors import SetupError

try:
    import torch
    import transformers
    from torch.nn import functional
except ImportError:  # refused by the first question: tools also read this module
    torch = None

from date_jax.augment import MEAN, STD
from date_jax.date.seekers import MAX_SCALE
from date_jax.networks.sizes import stage_widths, stride
from date_jax.networks.transformer import sincos_2d

Module: Any = torch.nn.Module if torch else object


class Peer(Module):
    """DATE as `supervised.Date` builds it, where the last stage's mean is its vector."""

    def __init__(self, config: ConfigDict, folder: Path):
        super().__init__()
        # Extractors from the files that ours wrote, in Hugging Face's layout.
        model, side = config.model, config.data.image_size
        image, text, fusion = model.image, model.text, model.fusion
        self.image = transformers.SwinModel.from_pretrained(
            folder / "image", add_pooling_layer=False, drop_path_rate=0.0
        )
        self.text = transformers.BertModel.from_pretrained(
            folder / "text",
            add_pooling_layer=False,
            hidden_dropout_prob=text.dropout,
            attention_probs_dropout_prob=text.dropout,
        )
        grid = side // stride(image)
        # Image seeker and object seeker, as `network.Date` has them.
        self.image_projection = torch.nn.Linear(stage_widths(image)[-1], model.width)
        self.text_projection = torch.nn.Linear(text.width, model.width)
        self.layers = torch.nn.ModuleList(
            torch.nn.TransformerEncoderLayer(
                model.width,
                fusion.heads,
                fusion.mlp_width,
                fusion.dropout,
                batch_first=True,
                norm_first=fusion.norm_first,
            )
            for _ in range(fusion.layers)
        )
        self.norm = torch.nn.LayerNorm(model.width) if fusion.norm_first else torch.nn.Identity()
        self.box = torch.nn.ModuleList(
            torch.nn.Linear(model.width, width) for width in (model.width, model.width, 4)
        )
        self.loc = torch.nn.Parameter(torch.zeros(1, 1, model.width))
        self.kind = torch.nn.Parameter(torch.zeros(3, model.width))
        self.text_position = torch.nn.Parameter(torch.zeros(config.data.text_length, model.width))
        self.log_scale = torch.nn.Parameter(torch.zeros(()))
        self.bias = torch.nn.Parameter(torch.zeros(()))  # of the sigmoid loss
        # What our network computes or has as constants.
        self.register_buffer("place", torch.from_numpy(sincos_2d(grid, grid, model.width)))
        for name, values in (("mean", MEAN), ("std", STD)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1))
        self._load(load_file(folder / "seekers.safetensors"))

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The box and both embeddings, under the names that `supervised` gives them."""
        # Both extractors, projected to one width.
        pixels = batch["image"].permute(0, 3, 1, 2).float() / 255.0
        tokens = self.image((pixels - self.mean) / self.std).last_hidden_state
        words = self.text(batch["text"], batch["text_mask"].long()).last_hidden_state
        rep, text_rep = self.image_projection(tokens.mean(1)), self.text_projection(words[:, 0])
        tokens, words = self.image_projection(tokens), self.text_projection(words)

        # The object seeker: [LOC], picture and words as one sequence; padded words are masked.
        rows = len(tokens)
        x = torch.cat([self.loc.expand(rows, 1, -1).to(tokens.dtype), tokens, words], 1)
        position = torch.cat(
            [self.kind[:1], self.place + self.kind[1:2], self.text_position + self.kind[2:]]
        )
        visible = torch.ones(rows, 1 + tokens.shape[1], dtype=torch.bool, device=x.device)
        padding = ~torch.cat([visible, batch["text_mask"]], 1)
        for layer in self.layers:
            x = layer(x + position, src_key_padding_mask=padding)
        box = self.norm(x[:, 0]).float()
        box = self.box[1](self.box[0](box).relu()).relu()
        return {
            "box_cxcywh": self.box[2](box).sigmoid(),
            "query_embedding": functional.normalize(text_rep.float(), dim=-1),
            "image_embedding": functional.normalize(rep.float(), dim=-1),
        }

    def _load(self, tensors: dict[str, Any]) -> None:
        """Takes over our parameters of all that comes after the extractors."""
        ours = {name: torch.from_numpy(value) for name, value in tensors.items()}
        seeker = "object_seeker/"

        def dense(name: str) -> dict[str, Any]:
            """A linear layer: PyTorch's weight is our kernel, transposed."""
            return {"weight": ours[f"{name}/kernel"].T, "bias": ours[f"{name}/bias"]}

        def norm(name: str) -> dict[str, Any]:
            """A layer norm: PyTorch's weight is our scale."""
            return {"weight": ours[f"{name}/scale"], "bias": ours[f"{name}/bias"]}

        # Projections, then the layers of the object seeker, its box head and its tokens.
        self.image_projection.load_state_dict(dense("image_projection"))
        self.text_projection.load_state_dict(dense("text_projection"))
        for number, layer in enumerate(self.layers):
            at = f"{seeker}layer{number}/"
            # PyTorch has one matrix for query, key and value.
            parts = [dense(f"{at}attention/{name}") for name in ("query", "key", "value")]
            layer.self_attn.in_proj_weight.data = torch.cat([part["weight"] for part in parts])
            layer.self_attn.in_proj_bias.data = torch.cat([part["bias"] for part in parts])
            layer.self_attn.out_proj.load_state_dict(dense(f"{at}attention/out"))
            layer.linear1.load_state_dict(dense(f"{at}mlp/up"))
            layer.linear2.load_state_dict(dense(f"{at}mlp/down"))
            layer.norm1.load_state_dict(norm(f"{at}norm1"))
            layer.norm2.load_state_dict(norm(f"{at}norm2"))
        if not isinstance(self.norm, torch.nn.Identity):
            self.norm.load_state_dict(norm(f"{seeker}norm"))
        for number, layer in enumerate(self.box):
            layer.load_state_dict(dense(f"{seeker}box{number + 1}"))
        # Tokens, scale and bias are arrays outside of any layer.
        for parameter, name in (
            (self.loc, "loc_token"),
            (self.kind, "type_embedding"),
            (self.text_position, "text_position"),
        ):
            parameter.data = ours[seeker + name]
        self.log_scale.data = ours["image_seeker/log_scale"]
        self.bias.data = ours["image_seeker/bias"]


def loss(peer: Peer, out: dict[str, Any], batch: dict[str, Any], config: ConfigDict) -> Any:
    """`L_coop`: L1 and 1 - GIoU, and the contrastive loss, whose positives are equal products."""
    predicted, true = out["box_cxcywh"], batch["box_cxcywh"]
    box = (predicted - true).abs().sum(-1) + 1.0 - _giou(_corners(predicted), _corners(true))
    # Rows of one product are each other's positives, equally.
    scale = peer.log_scale.exp().clamp(max=MAX_SCALE)
    logits = scale * out["query_embedding"] @ out["image_embedding"].T
    product = batch["product_id"]
    target = (product[:, None] == product[None]).float()
    target = target / target.sum(1, keepdim=True)
    image = functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)
    weights = config.object_seeker.weight, config.image_seeker.weight
    return weights[0] * box.mean() + weights[1] * image / 2


def _corners(cxcywh: Any) -> Any:
    """Boxes by two corners, xyxy."""
    return torch.cat([cxcywh[:, :2] - cxcywh[:, 2:] / 2, cxcywh[:, :2] + cxcywh[:, 2:] / 2], dim=1)


def _giou(a: Any, b: Any) -> Any:
    """GIoU of boxes xyxy, row by row."""

    def area(low: Any, high: Any) -> Any:
        """Areas of the boxes between two corners; 0 where there is no box."""
        return (high - low).clamp(min=0).prod(1)

    overlap = area(torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:]))
    hull = area(torch.minimum(a[:, :2], b[:, :2]), torch.maximum(a[:, 2:], b[:, 2:]))
    union = area(a[:, :2], a[:, 2:]) + area(b[:, :2], b[:, 2:]) - overlap
    return overlap / union - (hull - union) / hull


class Side:
    """The peer's side of the comparison: the first question builds it, the others time it."""

    def __call__(self, question: dict[str, Any]) -> dict[str, Any]:
        if "weights" in question:
            return self._begin(question)
        # A GPU runs behind Python: it is waited for.
        begun = time.perf_counter()
        for _ in range(question["steps"]):
            self._step()
        if self._device == "cuda":
            torch.cuda.synchronize()
        return {"seconds": (time.perf_counter() - begun) / question["steps"]}

    def _begin(self, question: dict[str, Any]) -> dict[str, Any]:
        """Builds the network and its training step; returns what must agree with our side."""
        if torch is None:
            raise SetupError(
                "--compare=torch needs PyTorch and transformers: "
                "pip install torch==2.13.0 transformers==5.23.0"
            )
        # The network with our weights, and its outputs, which must be ours.
        config = ConfigDict(question["config"])
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.manual_seed(0)
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        self._peer = Peer(config, Path(question["weights"])).to(self._device)
        batches = [self._batch(config, seed) for seed in range(3)]
        self._peer.eval()
        with torch.no_grad():
            out = {name: x.cpu().tolist() for name, x in self._peer(batches[0]).items()}
        self._peer.train()

        # The optimizer of our config: the extractors learn at another rate.
        groups = [
            {"params": [p for n, p in self._peer.named_parameters() if _is_backbone(n) == backbone],
             "lr": config.optim.learning_rate * (config.optim.backbone_scale if backbone else 1.0)}
            for backbone in (True, False)
        ]  # fmt: skip
        optimizer = torch.optim.AdamW(
            groups,
            betas=(0.9, config.optim.beta2),
            weight_decay=config.optim.weight_decay,
            fused=True,
        )
        # The step, compiled and in half precision where the config's is.
        forward = torch.compile(self._peer) if question["compiled"] else self._peer
        half = config.model.dtype == "bfloat16"
        endless = itertools.cycle(batches)

        def step() -> None:
            """One training step on the next batch."""
            batch = next(endless)
            with torch.autocast(self._device, torch.bfloat16, enabled=half):
                out = forward(batch)
            value = loss(self._peer, out, batch, config)
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            torch.nn.utils.clip_grad_norm_(self._peer.parameters(), config.optim.clip)
            optimizer.step()

        self._step = step
        count = sum(p.numel() for p in self._peer.parameters())
        return {"parameters": count, "out": out, "version": f"torch {torch.__version__}"}

    def _batch(self, config: ConfigDict, seed: int) -> dict[str, Any]:
        """The rows that our side has for this seed."""
        rows = step.random_batch(config, seed, config.data.vocab_size)["source"]
        return {name: torch.from_numpy(value).to(self._device) for name, value in rows.items()}


def _is_backbone(name: str) -> bool:
    """Whether a parameter is one of the extractors'."""
    return name.startswith(("image.", "text."))


if __name__ == "__main__":
    answer(Side())
