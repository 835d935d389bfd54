"""From pieces to one model: where masks reach, which steps are last, and what runs backwards.

A mask of Keras begins at an Embedding with mask_zero or at a Masking and reaches up to the first
recurrent layer that returns its last step alone, or to the end. Recurrent layers skip what it
masks; the layers between them treat each step alike, so that it is all the same whether they do.
What a mask reaches up to its last recurrent layer becomes one `nn.Masked`.
"""
# SPDX-License-Identifier: Apache-2.0

from dataclasses import dataclass, field

from rnncore import nn
from rnncore.io.keras.graph import MaskOf


@dataclass
class _Region:
    """What a mask reaches."""

    opener: object
    value: float
    features: bool
    modules: list = field(default_factory=list)
    end: int = 0
    """Modules up to the last recurrent layer."""
    zeros: bool = True
    backwards: bool = False
    """Whether its output runs backwards, so that the mask fits no step any more."""
    crossed: bool = False
    """Whether it has met the border of a model within the model, where Keras may drop it."""

    def mask(self):
        """What a Functional model calls this mask."""
        return MaskOf((self.opener.source, 0), self.value, self.features)


def assemble(pieces):
    """Return one nn.Sequential of all pieces."""
    done, region, steps = [], None, True
    for piece in pieces:
        if region is not None and piece.layer.place[:-1] != region.opener.place[:-1]:
            region.crossed = True
        if piece.run is not None and not steps:
            raise ValueError(f"{piece.layer} takes steps, but the layer before returned the last")
        if piece.masks is not None:
            done += _closed(region)
            features = piece.layer.kind == "Masking"
            region = _Region(piece.layer, piece.masks, features, list(piece.modules))
        elif piece.run is None:
            if region is not None and any(isinstance(m, nn.Conv1d) for m in piece.modules):
                raise ValueError(
                    f"the mask of {region.opener} reaches {piece.layer}: not supported"
                )
            (done if region is None else region.modules).extend(piece.modules)
        elif region is None:
            if piece.layer.mask is not None:
                raise ValueError(f"{piece.layer} has a mask of its own, which is not supported")
            done += _plain(piece)
        else:
            _extend(region, piece)
        if piece.run is not None and not piece.run.sequences:
            steps = False
            done += _closed(region)
            region = None
    return nn.Sequential(*done, *_closed(region))


def _plain(piece):
    """The modules of a recurrent layer that no mask reaches."""
    run = piece.run
    modules = [nn.Reverse(batch_first=True)] if run.backwards else []
    return [*modules, *piece.modules, *_last(run), *_merged(run)]


def _last(run):
    if run.sequences:
        return []
    return [nn.LastStep(bidirectional=run.merge is not None, batch_first=True)]


def _merged(run):
    return [] if run.merge in (None, "concat") else [nn.MergeDirections(run.merge)]


def _extend(region, piece):
    """A recurrent layer that a mask reaches."""
    run, layer = piece.run, piece.layer
    if layer.mask is not None and layer.mask != region.mask():
        raise ValueError(f"{layer} has a mask of its own, which is not supported")
    if region.crossed:
        raise ValueError(
            f"the mask of {region.opener} meets a model within the model before {layer}: "
            "not supported"
        )
    if region.backwards or (run.backwards and run.sequences and region.end):
        raise ValueError(f"{layer} or one before it runs backwards under a mask: not supported")
    if run.zeros and not run.sequences:
        raise ValueError(f"{layer} has zero_output_for_mask=True and returns the last step alone")
    if run.backwards and run.sequences:
        region.backwards = True
    elif run.backwards:
        region.modules.append(nn.Reverse(batch_first=True))
    region.modules += [*piece.modules, *_last(run)]
    region.end = len(region.modules)
    region.zeros = run.zeros or not run.sequences
    region.modules += _merged(run)


def _closed(region):
    """The modules of a region, those after its last recurrent layer behind the nn.Masked."""
    if region is None:
        return []
    if not region.end:
        if region.features and region.value:
            raise ValueError(f"{region.opener} masks for no recurrent layer: not supported")
        return region.modules
    masked = nn.Masked(
        *region.modules[: region.end],
        value=region.value,
        skipped="zero" if region.zeros else "repeat",
        batch_first=True,
    )
    turned = [nn.Reverse(batch_first=True)] if region.backwards else []
    return [*turned, masked, *region.modules[region.end :]]
