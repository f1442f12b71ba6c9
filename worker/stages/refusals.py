"""Every rule that an uploaded file can break, by its stable code, with the hint what to do."""

from __future__ import annotations

_SAVE_AGAIN = "Save the state dict again: `safetensors.torch.save_file(network.state_dict(), path)`."

REFUSALS = {
    # A file of tensors: worker/stages/tensor_file.py
    "safetensors_header_too_long": _SAVE_AGAIN,
    "safetensors_header_malformed": _SAVE_AGAIN,
    "safetensors_duplicate_name": _SAVE_AGAIN,
    "safetensors_duplicate_metadata": "Leave the metadata out, or give each key once.",
    "safetensors_metadata_malformed": "Leave the metadata out, or give texts by name.",
    "safetensors_metadata_too_long": "Leave the metadata out: they are not needed.",
    "safetensors_too_many_tensors": "Send the weights of one classifier, without the optimizer's state.",
    "safetensors_name": "Name tensors as PyTorch does, as in layer1.0.conv1.weight.",
    "safetensors_entry_malformed": _SAVE_AGAIN,
    "safetensors_dtype": "Convert the tensor: F64, F32, F16, BF16, I64, I32, I16, I8, U8 and BOOL are read.",
    "safetensors_rank": "Send the weights of an image classifier: none has so many dimensions.",
    "safetensors_too_many_numbers": "Send the weights of an image classifier: none has so large a tensor.",
    "safetensors_empty_tensor": "Leave tensors without numbers out.",
    "safetensors_size_mismatch": _SAVE_AGAIN,
    "safetensors_overlap": "Save the state dict again, with each tensor's bytes its own: `tensor.clone()`.",
    "safetensors_hole": _SAVE_AGAIN,
    "safetensors_trailing_bytes": _SAVE_AGAIN,
    "safetensors_rejected": _SAVE_AGAIN,
    "weights_not_finite": "The network was saved after its training diverged, or the file is damaged: send another.",
}
