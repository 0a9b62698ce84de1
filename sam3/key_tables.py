"""What other people call our tensors and sizes: the released `.pt` file ("native") and transformers' folders.

One table, read in one direction (our name to theirs), serves loading and saving alike. Names of the other two layouts
appear in this file, `foreign_configs.py` and `checkpoint.py` only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Literal

from torch import Tensor

Layout = Literal["native", "transformers"]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Source:
    """The place of one of our tensors in a foreign file.

    Attributes:
        name: key there, without the prefix of the detector.
        third: 0, 1 or 2 when ours is the query, key or value third of the rows of a fused tensor.
        change: what theirs needs to become ours; "drop_first" removes the class-token slot in front of the grid.
    """

    name: str
    third: int | None = None
    change: Literal["transpose", "drop_first"] | None = None

    def foreign_shape(self, shape: Shape) -> Shape:
        """Shape of their tensor when ours has `shape`."""
        if self.third is not None:
            return (3 * shape[0], *shape[1:])
        if self.change == "transpose":
            return shape[::-1]
        if self.change == "drop_first":
            return (shape[0], shape[1] + 1, *shape[2:])
        return shape

    def read(self, theirs: Tensor) -> Tensor:
        """Our tensor, as a view of theirs."""
        if self.third is not None:
            return theirs.chunk(3, dim=0)[self.third]
        if self.change == "transpose":
            return theirs.T
        return theirs[:, 1:] if self.change == "drop_first" else theirs


@dataclass(frozen=True)
class _Section:
    """Rows "ours | native | transformers" below three common prefixes.

    "*" is a number all three share, "+" is that number plus one. The last part (".weight", ".bias") is the same
    everywhere and left out. An attention names, after its module, the fused q, k, v tensor and the output layer
    (native), or the output layer alone (transformers). "-" means that transformers has no such tensor.
    """

    ours: str
    native: str
    transformers: str
    rows: str


_NECK = """
    0.resample.0 | 0.dconv_2x2_0 | 0.scale_layers.0
    0.resample.2 | 0.dconv_2x2_1 | 0.scale_layers.2
    1.resample.0 | 1.dconv_2x2   | 1.scale_layers.0
    *.conv1      | *.conv_1x1    | *.proj1
    *.conv3      | *.conv_3x3    | *.proj2
"""
_SECTIONS = (
    _Section(
        "image_encoder.",
        "backbone.vision_backbone.trunk.",
        "vision_encoder.backbone.",
        """
        patch_embed        | patch_embed.proj                    | embeddings.patch_embeddings.projection
        norm               | ln_pre                              | layer_norm
        blocks.*.norm1     | blocks.*.norm1                      | layers.*.layer_norm1
        blocks.*.norm2     | blocks.*.norm2                      | layers.*.layer_norm2
        blocks.*.fc1       | blocks.*.mlp.fc1                    | layers.*.mlp.fc1
        blocks.*.fc2       | blocks.*.mlp.fc2                    | layers.*.mlp.fc2
        blocks.*.attention | blocks.*.attn qkv. proj | layers.*.attention o_proj
        """,
    ),
    _Section("image_encoder.pyramid.", "backbone.vision_backbone.convs.", "vision_encoder.neck.fpn_layers.", _NECK),
    _Section(
        "image_encoder.tracker_pyramid.", "backbone.vision_backbone.sam2_convs.", "tracker_neck.fpn_layers.", _NECK
    ),
    _Section(
        "detector.text_encoder.",
        "backbone.language_backbone.encoder.",
        "text_encoder.text_model.",
        """
        token_embed    | token_embedding                | embeddings.token_embedding
        norm           | ln_final                       | final_layer_norm
        blocks.*.norm1 | transformer.resblocks.*.ln_1   | encoder.layers.*.layer_norm1
        blocks.*.norm2 | transformer.resblocks.*.ln_2   | encoder.layers.*.layer_norm2
        blocks.*.fc1   | transformer.resblocks.*.mlp.c_fc   | encoder.layers.*.mlp.fc1
        blocks.*.fc2   | transformer.resblocks.*.mlp.c_proj | encoder.layers.*.mlp.fc2
        blocks.*.attention | transformer.resblocks.*.attn in_proj_ out_proj | encoder.layers.*.self_attn out_proj
        """,
    ),
    _Section("detector.text_encoder.", "backbone.language_backbone.", "", "project | resizer | text_projection"),
    _Section(
        "detector.exemplar_encoder.",
        "geometry_encoder.",
        "geometry_encoder.",
        """
        label_embed       | label_embed           | label_embed
        summary_embed     | cls_embed             | cls_embed
        point_coordinates | points_direct_project | -
        point_pool        | points_pool_project   | -
        point_position    | points_pos_enc_project | -
        box_coordinates   | boxes_direct_project  | boxes_direct_project
        box_pool          | boxes_pool_project    | boxes_pool_project
        box_position      | boxes_pos_enc_project | boxes_pos_enc_project
        image_norm        | img_pre_norm          | vision_layer_norm
        project           | final_proj            | final_proj
        norm              | norm                  | prompt_layer_norm
        layers.*.norm1    | encode.*.norm1        | layers.*.layer_norm1
        layers.*.norm2    | encode.*.norm2        | layers.*.layer_norm2
        layers.*.norm3    | encode.*.norm3        | layers.*.layer_norm3
        layers.*.fc1      | encode.*.linear1      | layers.*.mlp.fc1
        layers.*.fc2      | encode.*.linear2      | layers.*.mlp.fc2
        layers.*.self_attention  | encode.*.self_attn in_proj_ out_proj | layers.*.self_attn o_proj
        layers.*.image_attention | encode.*.cross_attn_image in_proj_ out_proj | layers.*.cross_attn o_proj
        out_norm          | encode_norm           | output_layer_norm
        """,
    ),
    _Section(
        "detector.fusion_encoder.layers.*.",
        "transformer.encoder.layers.*.",
        "detr_encoder.layers.*.",
        """
        norm1            | norm1                                                   | layer_norm1
        norm2            | norm2                                                   | layer_norm2
        norm3            | norm3                                                   | layer_norm3
        fc1              | linear1                                                 | mlp.fc1
        fc2              | linear2                                                 | mlp.fc2
        self_attention   | self_attn in_proj_ out_proj                   | self_attn o_proj
        prompt_attention | cross_attn_image in_proj_ out_proj     | cross_attn o_proj
        """,
    ),
    _Section(
        "detector.decoder.layers.*.",
        "transformer.decoder.layers.*.",
        "detr_decoder.layers.*.",
        """
        self_norm        | norm2                                   | self_attn_layer_norm
        prompt_norm      | catext_norm                             | text_cross_attn_layer_norm
        image_norm       | norm1                                   | vision_cross_attn_layer_norm
        mlp_norm         | norm3                                   | mlp_layer_norm
        fc1              | linear1                                 | mlp.fc1
        fc2              | linear2                                 | mlp.fc2
        self_attention   | self_attn in_proj_ out_proj   | self_attn o_proj
        prompt_attention | ca_text in_proj_ out_proj       | text_cross_attn o_proj
        image_attention  | cross_attn in_proj_ out_proj | vision_cross_attn o_proj
        """,
    ),
    _Section(
        "detector.decoder.",
        "transformer.decoder.",
        "detr_decoder.",
        """
        query_embed            | query_embed                  | query_embed
        anchors                | reference_points             | reference_points
        presence_embed         | presence_token               | presence_token
        norm                   | norm                         | output_layer_norm
        box_head.layers.*      | bbox_embed.layers.*          | box_head.layer+
        box_position.layers.*  | ref_point_head.layers.*      | ref_point_head.layer+
        bias_x.layers.*        | boxRPB_embed_x.layers.*      | box_rpb_embed_x.layer+
        bias_y.layers.*        | boxRPB_embed_y.layers.*      | box_rpb_embed_y.layer+
        presence_norm          | presence_token_out_norm      | presence_layer_norm
        presence_head.layers.* | presence_token_head.layers.* | presence_head.layer+
        """,
    ),
    _Section(
        "detector.scoring.",
        "dot_prod_scoring.",
        "dot_product_scoring.",
        """
        prompt_mlp.layers.* | prompt_mlp.layers.*  | text_mlp.layer+
        norm                | prompt_mlp.out_norm  | text_mlp_out_norm
        project_prompt      | prompt_proj          | text_proj
        project_query       | hs_proj              | query_proj
        """,
    ),
    _Section(
        "detector.mask_head.",
        "segmentation_head.",
        "mask_decoder.",
        """
        prompt_norm        | cross_attn_norm                    | prompt_cross_attn_norm
        prompt_attention   | cross_attend_prompt in_proj_ out_proj | prompt_cross_attn o_proj
        convs.*            | pixel_decoder.conv_layers.*        | pixel_decoder.conv_layers.*
        norms.*            | pixel_decoder.norms.*              | pixel_decoder.norms.*
        instance_conv      | instance_seg_head                  | instance_projection
        semantic_conv      | semantic_seg_head                  | semantic_projection
        query_mlp.layers.* | mask_predictor.mask_embed.layers.* | mask_embedder.layers.*
        """,
    ),
)

_PARAMETERS: dict[str, dict[Layout, Source]] = {
    "image_encoder.position_embed": {
        "native": Source("backbone.vision_backbone.trunk.pos_embed", change="drop_first"),
        "transformers": Source("vision_encoder.backbone.embeddings.position_embeddings"),
    },
    "detector.text_encoder.position_embed": {
        "native": Source("backbone.language_backbone.encoder.positional_embedding"),
        "transformers": Source("text_encoder.text_model.embeddings.position_embedding.weight"),
    },
    "detector.text_encoder.unused_projection": {
        "native": Source("backbone.language_backbone.encoder.text_projection"),
        "transformers": Source("text_encoder.text_projection.weight", change="transpose"),
    },
}


@cache
def _rows() -> dict[str, tuple[list[str], list[str]]]:
    """Module pattern of ours to the words of the native and of the transformers column, prefixes put in front."""
    rows = {}
    for section in _SECTIONS:
        for line in section.rows.strip().splitlines():
            ours, native, transformers = (column.strip() for column in line.split("|"))
            rows[section.ours + ours] = (
                (section.native + native).split(),
                ["-"] if transformers == "-" else (section.transformers + transformers).split(),
            )
    return rows


def _find(module: str, column: int) -> list[str] | None:
    """Words of one column for a module of ours, numbers put in; None when the table has no such module."""
    if (row := _rows().get(module)) is not None:
        return row[column]
    numbers = re.findall(r"(?<=\.)\d+(?=\.|$)", module)
    row = _rows().get(re.sub(r"(?<=\.)\d+(?=\.|$)", "*", module))
    if row is None or len(numbers) != 1:
        return None
    return [word.replace("*", numbers[0]).replace("+", str(int(numbers[0]) + 1)) for word in row[column]]


@cache
def source(key: str, layout: Layout) -> Source | None:
    """Where our tensor `key` lies in a file of another layout; None when that layout has no such tensor.

    Raises:
        KeyError: `key` is not a tensor of our model.

    Example:
        >>> source("detector.decoder.layers.3.prompt_attention.k.bias", "native")
        Source(name='transformer.decoder.layers.3.ca_text.in_proj_bias', third=1, change=None)
        >>> source("detector.decoder.box_head.layers.0.weight", "transformers").name
        'detr_decoder.box_head.layer1.weight'
    """
    if key in _PARAMETERS:
        return _PARAMETERS[key][layout]
    module, _, leaf = key.rpartition(".")
    column = 0 if layout == "native" else 1
    if (words := _find(module, column)) is not None and len(words) == 1:
        return None if words == ["-"] else Source(f"{words[0]}.{leaf}")
    attention, _, role = module.rpartition(".")
    words = _find(attention, column)
    if words is None or len(words) == 1 or role not in ("q", "k", "v", "out"):
        raise KeyError(key)
    if role == "out":
        return Source(f"{words[0]}.{words[-1]}.{leaf}")
    if layout == "transformers":
        return Source(f"{words[0]}.{role}_proj.{leaf}")
    return Source(f"{words[0]}.{words[1]}{leaf}", third="qkv".index(role))
