"""Edit a diffusers pipeline in memory: on until removed, and bitwise as before afterwards."""

from diffusers import StableDiffusionPipeline

from unconcept import UCE, Request, open_model
from unconcept.models import find_model

if __name__ == "__main__":
    pipe = StableDiffusionPipeline.from_pretrained(find_model("moji"))
    edit = UCE().erase(open_model(pipe), Request(targets=("dog face",), anchors=("cat face",)))
    handle = edit.apply_to(pipe)
    pipe("a dog face", num_inference_steps=8, guidance_scale=4.0).images[0].save("dog-erased.png")
    handle.remove()
    pipe("a dog face", num_inference_steps=8, guidance_scale=4.0).images[0].save("dog.png")
    edit.save("edit.safetensors")
