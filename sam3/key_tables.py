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

# transformers stores the frequencies of the prompt encoder a second time.
REPEATED_KEY = "tracker_model.shared_image_embedding.positional_embedding"
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")


@dataclass(frozen=True)
class Source:
    """The place of one of our tensors in a foreign file.

    Attributes:
        name: key there, without the prefix of the detector; that of the tracker is kept.
        part: which part of the rows of a fused tensor ours is; for query, key and value 0, 1 and 2.
        num_parts: how many equal parts the fused tensor has.
        change: what theirs needs to become ours; "drop_first" removes the class-token slot in front of the grid.
    """

    name: str
    part: int | None = None
    num_parts: int = 1
    change: Literal["transpose", "drop_first"] | None = None

    def foreign_shape(self, shape: Shape) -> Shape:
        """Shape of their tensor when ours has `shape`."""
        if self.part is not None:
            return (self.num_parts * shape[0], *shape[1:])
        if self.change == "transpose":
            return shape[::-1]
        if self.change == "drop_first":
            return (shape[0], shape[1] + 1, *shape[2:])
        return shape

    def read(self, theirs: Tensor) -> Tensor:
        """Our tensor, as a view of theirs."""
        if self.part is not None:
            return theirs.chunk(self.num_parts, dim=0)[self.part]
        if self.change == "transpose":
            return theirs.T
        return theirs[:, 1:] if self.change == "drop_first" else theirs


@dataclass(frozen=True)
class _Section:
    """Rows "ours | native | transformers" below three common prefixes.

    "*" is the first number in our name, which all three share, and "+" is that number plus one. The last part
    (".weight", ".bias") is the same everywhere and left out. An attention names, after its module, the fused q, k, v
    tensor and the output layer, or the output layer alone where the three are separate. "-" means that transformers has
    no such tensor.
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
_TRACKER_MLP = """
    layers.0 | layers.0 | proj_in
    layers.1 | layers.1 | layers.0
    layers.2 | layers.2 | proj_out
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
    _Section(
        "tracker.",
        "tracker.",
        "tracker_model.",
        """
        age_embed                 | maskmem_tpos_enc     | memory_temporal_positional_encoding
        no_memory_embed           | no_mem_embed         | no_memory_embedding
        unused_no_memory_position | no_mem_pos_enc       | no_memory_positional_encoding
        no_object_pointer         | no_obj_ptr           | no_object_pointer
        no_object_embed           | no_obj_embed_spatial | occlusion_spatial_embedding_parameter
        mask_downsample           | mask_downsample      | mask_downsample
        distance_project          | obj_ptr_tpos_proj    | temporal_positional_encoding_projection_layer
        """,
    ),
    _Section("tracker.pointer_mlp.", "tracker.obj_ptr_proj.", "tracker_model.object_pointer_proj.", _TRACKER_MLP),
    _Section(
        "tracker.prompt_encoder.",
        "tracker.sam_prompt_encoder.",
        "tracker_model.prompt_encoder.",
        """
        frequencies   | pe_layer.positional_encoding_gaussian_matrix | shared_embedding.positional_embedding
        padding_embed | not_a_point_embed  | not_a_point_embed
        no_mask_embed | no_mask_embed      | no_mask_embed
        mask_layers.0 | mask_downscaling.0 | mask_embed.conv1
        mask_layers.1 | mask_downscaling.1 | mask_embed.layer_norm1
        mask_layers.3 | mask_downscaling.3 | mask_embed.conv2
        mask_layers.4 | mask_downscaling.4 | mask_embed.layer_norm2
        mask_layers.6 | mask_downscaling.6 | mask_embed.conv3
        """,
    ),
    _Section(
        "tracker.mask_decoder.",
        "tracker.sam_mask_decoder.",
        "tracker_model.mask_decoder.",
        """
        object_token   | obj_score_token | obj_score_token
        iou_token      | iou_token       | iou_token
        mask_tokens    | mask_tokens     | mask_tokens
        blocks.*.norm1 | transformer.layers.*.norm1 | transformer.layers.*.layer_norm1
        blocks.*.norm2 | transformer.layers.*.norm2 | transformer.layers.*.layer_norm2
        blocks.*.norm3 | transformer.layers.*.norm3 | transformer.layers.*.layer_norm3
        blocks.*.norm4 | transformer.layers.*.norm4 | transformer.layers.*.layer_norm4
        blocks.*.mlp.layers.0 | transformer.layers.*.mlp.lin1 | transformer.layers.*.mlp.proj_in
        blocks.*.mlp.layers.1 | transformer.layers.*.mlp.lin2 | transformer.layers.*.mlp.proj_out
        blocks.*.self_attention  | transformer.layers.*.self_attn out_proj | transformer.layers.*.self_attn o_proj
        blocks.*.image_attention | transformer.layers.*.cross_attn_token_to_image out_proj \
            | transformer.layers.*.cross_attn_token_to_image o_proj
        blocks.*.token_attention | transformer.layers.*.cross_attn_image_to_token out_proj \
            | transformer.layers.*.cross_attn_image_to_token o_proj
        last_attention | transformer.final_attn_token_to_image out_proj | transformer.final_attn_token_to_image o_proj
        last_norm      | transformer.norm_final_attn | transformer.layer_norm_final_attn
        fine_conv      | conv_s0 | conv_s0
        middle_conv    | conv_s1 | conv_s1
        to_middle      | output_upscaling.0 | upscale_conv1
        middle_norm    | output_upscaling.1 | upscale_layer_norm
        to_fine        | output_upscaling.3 | upscale_conv2
        """,
    ),
    _Section(
        "tracker.mask_decoder.mask_mlps.*.",
        "tracker.sam_mask_decoder.output_hypernetworks_mlps.*.",
        "tracker_model.mask_decoder.output_hypernetworks_mlps.*.",
        _TRACKER_MLP,
    ),
    _Section(
        "tracker.mask_decoder.iou_mlp.",
        "tracker.sam_mask_decoder.iou_prediction_head.",
        "tracker_model.mask_decoder.iou_prediction_head.",
        _TRACKER_MLP,
    ),
    _Section(
        "tracker.mask_decoder.object_mlp.",
        "tracker.sam_mask_decoder.pred_obj_score_head.",
        "tracker_model.mask_decoder.pred_obj_score_head.",
        _TRACKER_MLP,
    ),
    _Section(
        "tracker.memory_encoder.",
        "tracker.maskmem_backbone.",
        "tracker_model.memory_encoder.",
        """
        mask_convs.0     | mask_downsampler.encoder.0  | mask_downsampler.layers.0.conv
        mask_convs.1     | mask_downsampler.encoder.3  | mask_downsampler.layers.1.conv
        mask_convs.2     | mask_downsampler.encoder.6  | mask_downsampler.layers.2.conv
        mask_convs.3     | mask_downsampler.encoder.9  | mask_downsampler.layers.3.conv
        mask_norms.0     | mask_downsampler.encoder.1  | mask_downsampler.layers.0.layer_norm
        mask_norms.1     | mask_downsampler.encoder.4  | mask_downsampler.layers.1.layer_norm
        mask_norms.2     | mask_downsampler.encoder.7  | mask_downsampler.layers.2.layer_norm
        mask_norms.3     | mask_downsampler.encoder.10 | mask_downsampler.layers.3.layer_norm
        mask_project     | mask_downsampler.encoder.12 | mask_downsampler.final_conv
        image_project    | pix_feat_proj               | feature_projection
        out              | out_proj                    | projection
        fuser.*.filter   | fuser.layers.*.dwconv       | memory_fuser.layers.*.depthwise_conv
        fuser.*.norm     | fuser.layers.*.norm         | memory_fuser.layers.*.layer_norm
        fuser.*.fc1      | fuser.layers.*.pwconv1      | memory_fuser.layers.*.pointwise_conv1
        fuser.*.fc2      | fuser.layers.*.pwconv2      | memory_fuser.layers.*.pointwise_conv2
        fuser.*.strength | fuser.layers.*.gamma        | memory_fuser.layers.*.scale
        """,
    ),
    _Section(
        "tracker.memory_attention.",
        "tracker.transformer.encoder.",
        "tracker_model.memory_attention.",
        """
        norm           | norm             | layer_norm
        layers.*.norm1 | layers.*.norm1   | layers.*.layer_norm1
        layers.*.norm2 | layers.*.norm2   | layers.*.layer_norm2
        layers.*.norm3 | layers.*.norm3   | layers.*.layer_norm3
        layers.*.fc1   | layers.*.linear1 | layers.*.linear1
        layers.*.fc2   | layers.*.linear2 | layers.*.linear2
        layers.*.self_attention   | layers.*.self_attn out_proj        | layers.*.self_attn o_proj
        layers.*.memory_attention | layers.*.cross_attn_image out_proj | layers.*.cross_attn_image o_proj
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
for _label in range(4):
    _PARAMETERS[f"tracker.prompt_encoder.label_embeds.{_label}.weight"] = {
        "native": Source(f"tracker.sam_prompt_encoder.point_embeddings.{_label}.weight"),
        "transformers": Source("tracker_model.prompt_encoder.point_embed.weight", part=_label, num_parts=4),
    }


@cache
def _rows() -> dict[str, tuple[list[str], list[str]]]:
    """Pattern of our names to the words of the native and of the transformers column, prefixes put in front."""
    rows = {}
    for section in _SECTIONS:
        for line in section.rows.strip().splitlines():
            ours, native, transformers = (column.strip() for column in line.split("|"))
            rows[section.ours + ours] = (
                (section.native + native).split(),
                ["-"] if transformers == "-" else (section.transformers + transformers).split(),
            )
    return rows


def _find(name: str, column: int) -> list[str] | None:
    """Words of one column for a module or parameter of ours, the number put in; None when the table has none."""
    rows = _rows()
    if (row := rows.get(name)) is not None:
        return row[column]
    number = _NUMBER.search(name)
    if number is None or (row := rows.get(_NUMBER.sub("*", name, count=1))) is None:
        return None
    return [word.replace("*", number[0]).replace("+", str(int(number[0]) + 1)) for word in row[column]]


@cache
def source(key: str, layout: Layout) -> Source | None:
    """Where our tensor `key` lies in a file of another layout; None when that layout has no such tensor.

    Raises:
        KeyError: `key` is not a tensor of our model.

    Example:
        >>> source("detector.decoder.layers.3.prompt_attention.k.bias", "native")
        Source(name='transformer.decoder.layers.3.ca_text.in_proj_bias', part=1, num_parts=3, change=None)
        >>> source("detector.decoder.box_head.layers.0.weight", "transformers").name
        'detr_decoder.box_head.layer1.weight'
        >>> source("tracker.age_embed", "native").name
        'tracker.maskmem_tpos_enc'
    """
    if key in _PARAMETERS:
        return _PARAMETERS[key][layout]
    column = 0 if layout == "native" else 1
    if (words := _find(key, column)) is not None:
        return Source(words[0])
    module, _, leaf = key.rpartition(".")
    if (words := _find(module, column)) is not None and len(words) == 1:
        return None if words == ["-"] else Source(f"{words[0]}.{leaf}")
    attention, _, role = module.rpartition(".")
    words = _find(attention, column)
    if words is None or len(words) == 1 or role not in ("q", "k", "v", "out"):
        raise KeyError(key)
    if role == "out":
        return Source(f"{words[0]}.{words[-1]}.{leaf}")
    if len(words) == 2:
        return Source(f"{words[0]}.{role}_proj.{leaf}")
    return Source(f"{words[0]}.{words[1]}{leaf}", part="qkv".index(role), num_parts=3)
