"""Every family from its real classes at toy size, built in a blink with no download."""

import json
from collections.abc import Callable
from copy import copy
from functools import cache, partial
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    ChromaPipeline,
    ChromaTransformer2DModel,
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    ModelMixin,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    Qwen3ForCausalLM,
)

from tests.network_copy import network_copy
from tests.toy_text import END, chat_tokenizer, mistral3, qwen3, qwen25_vl, t5, text_config, tokenizer
from unconcept.models.views import PipelineView, view_of_pipeline

FAMILIES = ("sd1", "sd2", "sdxl")  # with a UNet
MMDITS = ("sd3", "flux")  # with a joint transformer


def unet(width: int, **more: object) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=width,
        attention_head_dim=2,
        norm_num_groups=4,
        **more,
    )


def vae(kind: type[ModelMixin] = AutoencoderKL, **more: object) -> ModelMixin:
    return kind(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(4, 8),
        norm_num_groups=2,
        latent_channels=4,
        **more,
    )


def flow_vae() -> ModelMixin:
    return vae(shift_factor=0.06, scaling_factor=1.5, sample_size=16)


def dynamic_shift(**more: object) -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, **more)


def joint_net(kind: type[ModelMixin], text_width: int, axes: tuple[int, ...] = (4, 4, 8), **more: object) -> ModelMixin:
    """A transformer of few blocks on patches of 2 x 2 latents, which are read beside texts of this width."""
    return kind(
        in_channels=16,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=text_width,
        axes_dims_rope=axes,
        **more,
    )


def flux(distilled: bool = True) -> DiffusionPipeline:
    """`distilled` is FLUX dev's kind of guidance."""
    tokens, autoencoder = tokenizer(), flow_vae()
    encoder, (encoder_2, tokens_2) = CLIPTextModel(text_config(tokens, 32, "quick_gelu")), t5(48)
    own = {"num_single_layers": 1, "pooled_projection_dim": 32, "guidance_embeds": distilled}
    net = joint_net(FluxTransformer2DModel, 48, **own)
    return FluxPipeline(dynamic_shift(), autoencoder, encoder, tokens, encoder_2, tokens_2, net)


def chroma() -> DiffusionPipeline:
    autoencoder, (encoder, tokens) = flow_vae(), t5(48)
    approximator = {"approximator_num_channels": 8, "approximator_hidden_dim": 16, "approximator_layers": 2}
    net = joint_net(ChromaTransformer2DModel, 48, num_single_layers=1, **approximator)
    return ChromaPipeline(dynamic_shift(), autoencoder, encoder, tokens, net)


def flux2_parts(distilled: bool, text_width: int) -> tuple[ModelMixin, ModelMixin]:
    """Autoencoder and transformer, with statistics of the latents that are not what they are initialised to."""
    autoencoder = vae(AutoencoderKLFlux2, sample_size=16)
    torch.nn.init.uniform_(autoencoder.bn.running_mean, -0.5, 0.5)
    torch.nn.init.uniform_(autoencoder.bn.running_var, 0.5, 2.0)
    own = {"num_single_layers": 1, "timestep_guidance_channels": 16, "guidance_embeds": distilled}
    return autoencoder, joint_net(Flux2Transformer2DModel, 3 * text_width, (4, 4, 4, 4), **own)


def flux2_klein(distilled: bool = False) -> DiffusionPipeline:
    """`distilled` is klein's own kind: to a few steps without guidance."""
    body, tokens = qwen3(8, layers=28)
    autoencoder, net = flux2_parts(distilled=False, text_width=8)
    encoder = Qwen3ForCausalLM(body.config)
    return Flux2KleinPipeline(dynamic_shift(), autoencoder, encoder, tokens, net, is_distilled=distilled)


def flux2(distilled: bool = True, text_width: int = 8) -> DiffusionPipeline:
    """`distilled` is dev's kind of guidance."""
    encoder, processor = mistral3(text_width, layers=31)
    autoencoder, net = flux2_parts(distilled, text_width)
    return Flux2Pipeline(dynamic_shift(), autoencoder, encoder, processor, net)


def stable_diffusion_3() -> DiffusionPipeline:
    """With a block of 3.5's kind."""
    first, autoencoder = tokenizer(), flow_vae()
    second, (encoder_3, third) = tokenizer(pad="!</w>"), t5(80)
    encoders = [
        CLIPTextModelWithProjection(text_config(tokens, 32, act))
        for tokens, act in ((first, "quick_gelu"), (second, "gelu"))
    ]
    net = SD3Transformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=80,
        caption_projection_dim=16,
        pooled_projection_dim=64,
        pos_embed_max_size=8,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    return StableDiffusion3Pipeline(
        net,
        FlowMatchEulerDiscreteScheduler(shift=3.0),
        autoencoder,
        encoders[0],
        first,
        encoders[1],
        second,
        encoder_3,
        third,
    )


def ddim(prediction: str = "epsilon") -> DDIMScheduler:
    return DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, steps_offset=1, prediction_type=prediction)


def stable_diffusion(act: str = "quick_gelu", pad: str = END, prediction: str = "epsilon") -> DiffusionPipeline:
    """SD 1.x, or 2.x by its activation, padding and prediction."""
    scheduler, tokens = ddim(prediction), tokenizer(pad=pad)
    encoder = CLIPTextModel(text_config(tokens, 32, act))
    return StableDiffusionPipeline(
        vae(), encoder, tokens, unet(32), scheduler, None, None, requires_safety_checker=False
    )


def stable_diffusion_xl() -> DiffusionPipeline:
    first, second = tokenizer(), tokenizer(pad="!</w>")
    net = unet(
        64, addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=32 + 48
    )
    encoders = (
        CLIPTextModel(text_config(first, 32, "quick_gelu")),
        CLIPTextModelWithProjection(text_config(second, 32, "gelu")),
    )
    return StableDiffusionXLPipeline(vae(), encoders[0], encoders[1], first, second, net, ddim(), add_watermarker=False)


def pixart() -> DiffusionPipeline:
    """With the variance that it predicts beside the noise."""
    autoencoder, (encoder, tokens) = vae(), t5(48)
    net = PixArtTransformer2DModel(
        sample_size=8,
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=16,
        cross_attention_dim=32,
        caption_channels=48,
        norm_num_groups=4,
    )
    return PixArtSigmaPipeline(tokens, encoder, autoencoder, net, DPMSolverMultistepScheduler(beta_end=0.02))


def z_image() -> DiffusionPipeline:
    """With pads and a norm of the text that are not what they are initialised to."""
    autoencoder, (encoder, tokens) = flow_vae(), qwen3(24)
    net = ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=24,
        axes_dims=[4, 6, 6],
        axes_lens=[600, 32, 32],
    )
    for parameter in (net.x_pad_token, net.cap_pad_token, net.cap_embedder[0].weight):
        torch.nn.init.normal_(parameter, 1.0, 0.3)
    return ZImagePipeline(FlowMatchEulerDiscreteScheduler(shift=3.0), autoencoder, encoder, tokens, net)


def qwen_image() -> DiffusionPipeline:
    """Its pictures have 8 x 8 latents in memory; a folder says nothing of their size."""
    encoder, tokens = qwen25_vl()
    autoencoder = AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[1.5, 0.5, 2.0, 1.0],
    )
    net = joint_net(QwenImageTransformer2DModel, 48, (4, 6, 6), out_channels=4)
    torch.nn.init.normal_(net.txt_norm.weight, 1.0, 0.3)
    pipe = QwenImagePipeline(dynamic_shift(shift_terminal=0.02), autoencoder, encoder, tokens, net)
    pipe.default_sample_size = 8
    return pipe


PIPELINES: dict[str, Callable[[], DiffusionPipeline]] = {
    "sd1": stable_diffusion,
    "sd2": partial(stable_diffusion, "gelu", "!</w>", "v_prediction"),
    "sdxl": stable_diffusion_xl,
    "sd3": stable_diffusion_3,
    "flux": flux,
    "pixart": pixart,
    "chroma": chroma,
    "zimage": z_image,
    "flux2_klein": flux2_klein,
    "flux2": flux2,
    "qwenimage": qwen_image,
}
GUIDED: dict[str, dict[str, bool]] = {"flux": {"distilled": False}}
"""How a family is built whose pictures have no classifier-free guidance otherwise."""


@cache
def _built(family: str, seed: int, dtype: torch.dtype, **more: bool) -> tuple[DiffusionPipeline, torch.Tensor]:
    """A pipeline that nobody touches, and the state of torch's generator after it was drawn."""
    torch.manual_seed(seed)
    pipe = PIPELINES[family](**more)
    pipe.set_progress_bar_config(disable=True)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    return pipe.to(dtype=dtype), torch.get_rng_state()


def pipeline(family: str, seed: int = 0, dtype: torch.dtype = torch.float32, **more: bool) -> DiffusionPipeline:
    """A fresh random pipeline."""
    built, state = _built(family, seed, dtype, **more)
    torch.set_rng_state(state)
    pipe, done = copy(built), {}
    for name, part in built.components.items():
        vars(pipe)[name] = network_copy(part, done)
    return pipe


def view(family: str, dtype: torch.dtype = torch.float64, seed: int = 0, **more: int) -> PipelineView:
    """A view of a fresh pipeline; float64, so that exact properties can be asked for."""
    return view_of_pipeline(pipeline(family, seed, dtype, **more), f"tiny-{family}")


def guided_view(family: str, dtype: torch.dtype = torch.float64) -> PipelineView:
    """A view of a fresh pipeline whose pictures have classifier-free guidance."""
    return view(family, dtype, **GUIDED.get(family, {}))


def folder(family: str, path: Path, old: bool = False) -> Path:
    """The pipeline on disk; `old` as older libraries wrote it: vocab.json and merges.txt, `text_model.` prefixes."""
    pipeline(family).save_pretrained(path)
    if old:
        _age(path)
    return path


def _age(path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for part in path.glob("tokenizer*"):
        model = json.loads((part / "tokenizer.json").read_text())["model"]
        (part / "vocab.json").write_text(json.dumps(model["vocab"]))
        (part / "merges.txt").write_text("#version: 0.2\n" + "".join(" ".join(pair) + "\n" for pair in model["merges"]))
        (part / "tokenizer.json").unlink()
    for part in path.glob("text_encoder*"):
        file = part / "model.safetensors"
        weights = load_file(file)
        if not any(name.startswith("text_model.") for name in weights):
            renamed = {n if n.startswith("text_projection") else f"text_model.{n}": t for n, t in weights.items()}
            save_file(renamed, file, metadata={"format": "pt"})


def clip_folder(path: Path, side: int = 48, seed: int = 0) -> Path:
    """A CLIP of two small towers on disk, with its tokenizer and image processor, as transformers saves them."""
    tokens = tokenizer()
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=side,
        patch_size=16,
        projection_dim=24,
    )
    text = text_config(tokens, 32, "quick_gelu")
    torch.manual_seed(seed)
    CLIPModel(
        CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=24)
    ).save_pretrained(path)
    tokens.save_pretrained(path)
    CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side}).save_pretrained(path)
    return path


@cache
def shared(family: str) -> PipelineView:
    """One view for tests that leave it as it was."""
    return view(family)


def llava_folder(path: Path) -> Path:
    """A vision-language model of two small towers on disk, as transformers saves it; it has a chat template."""
    tokens = chat_tokenizer("yes", "no")
    tokens.add_special_tokens({"extra_special_tokens": ["<image>"]})
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=16,
    )
    text = LlamaConfig(
        vocab_size=len(tokens),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        pad_token_id=tokens.pad_token_id,
        bos_token_id=tokens.pad_token_id,
        eos_token_id=tokens.pad_token_id,
    )
    image = tokens.convert_tokens_to_ids("<image>")
    torch.manual_seed(0)
    LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision.to_dict(), text_config=text.to_dict(), image_token_index=image)
    ).save_pretrained(path)
    images = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    template = (
        "{% for message in messages %}{% for part in message.content %}"
        "{{ '<image>' if part.type == 'image' else part.text }}{% endfor %}{% endfor %}"
    )
    LlavaProcessor(
        images,
        tokens,
        patch_size=16,
        vision_feature_select_strategy="default",
        chat_template=template,
        num_additional_image_tokens=1,
    ).save_pretrained(path)
    return path
