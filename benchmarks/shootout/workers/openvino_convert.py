"""A Hugging Face directory to OpenVINO's format: linears in 4 bits, asymmetric, groups of 32; embedding and head in 8.

``python openvino_convert.py SOURCE TARGET``, in the environment of the OpenVINO peer.
"""

import os
import shutil
import sys

os.environ["HF_HUB_OFFLINE"] = "1"  # everything is local: nothing is looked up

import nncf
import openvino
from openvino_tokenizers import convert_tokenizer
from optimum.intel import OVModelForCausalLM
from transformers import AutoTokenizer

source, target = sys.argv[1:]
model = OVModelForCausalLM.from_pretrained(source, export=True, load_in_8bit=False, compile=False, dtype="float32")
model.save_pretrained(f"{target}/plain")
compressed = nncf.compress_weights(
    openvino.Core().read_model(f"{target}/plain/openvino_model.xml"),
    mode=nncf.CompressWeightsMode.INT4_ASYM,
    group_size=32,
    ratio=1.0,
    all_layers=False,  # the first embedding and the head stay at 8 bits
)
openvino.save_model(compressed, f"{target}/openvino_model.xml", compress_to_fp16=False)
model.config.save_pretrained(target)
model.generation_config.save_pretrained(target)
tokenizers = convert_tokenizer(AutoTokenizer.from_pretrained(source), with_detokenizer=True)
for part, name in zip(tokenizers, ("tokenizer", "detokenizer"), strict=True):
    openvino.save_model(part, f"{target}/openvino_{name}.xml")
shutil.rmtree(f"{target}/plain")
