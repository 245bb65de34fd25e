"""Asks a local vision-language model of transformers about pictures: greedy, one picture at a time."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ...core.hashing import hash_tensors
from ..checkpoint.library_errors import library_errors
from .transformers_folder import load_network


class VisionLanguageModel:
    """A network that answers a question about a picture in words; the same picture has the same answer every time."""

    def __init__(self, path: Path, device: torch.device) -> None:
        """Open a folder that transformers wrote; only safetensors, and no code of the folder's own."""
        from transformers import AutoProcessor  # The import takes seconds.

        self.network = load_network("AutoModelForImageTextToText", path, "vision-language model", device, None)
        with library_errors(path, "transformers opens no processor of it"):
            self.processor = AutoProcessor.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        self.name, self.device = path.name, device
        self.hash: str = hash_tensors(self.network.state_dict())

    @torch.no_grad()
    def answers(self, pictures: Tensor, questions: Sequence[str], longest: int) -> list[str]:
        """Return an answer of at most `longest` tokens to the question about each picture of (b, 3, h, w) in [0, 1]."""
        bytes_ = (pictures.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        return [
            self._answer(Image.fromarray(pixels), question, longest)
            for pixels, question in zip(bytes_, questions, strict=True)
        ]

    def _answer(self, picture: Image.Image, question: str, longest: int) -> str:
        given = self.processor(images=[picture], text=[self._text(question)], return_tensors="pt").to(self.device)
        said = self.network.generate(**given, do_sample=False, max_new_tokens=longest)
        words: str = self.processor.batch_decode(said[:, given["input_ids"].shape[1] :], skip_special_tokens=True)[0]
        return words.strip()

    def _text(self, question: str) -> str:
        """The question in the model's own chat template, or behind its sign for a picture if it has none."""
        if not getattr(self.processor, "chat_template", None):
            return f"{getattr(self.processor, 'image_token', '<image>')}{question}"
        turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}
        text: str = self.processor.apply_chat_template([turn], add_generation_prompt=True)
        return text
