"""Every rule that an uploaded file can break, by its stable code, with the hint what to do."""

from __future__ import annotations

_NO_PROGRAM = "A program is not taken, whoever made it. Load it where you trust it, and save its state dict: " + (
    "`safetensors.torch.save_file(network.state_dict(), path)`."
)
_PLAIN = "Save the plain state dict: `torch.save(network.state_dict(), path)`, or better as safetensors."
_ZIP_AGAIN = "Make the zip file again, from the files themselves, with a common tool."
_SAVE_AGAIN = "Save the state dict again: `safetensors.torch.save_file(network.state_dict(), path)`."
_EXPORT_AGAIN = "Export the network again, in evaluation mode, and compare hashes after copying the file."
_EXPORT_PLAIN = "Export the plain classifier, in float32; or send its weights as safetensors."

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
    # What a weights file is: worker/stages/kind.py
    "format_pickle": _NO_PROGRAM,
    "format_pickled_module": _NO_PROGRAM,
    "format_torchscript": _NO_PROGRAM,
    "format_exported_program": _NO_PROGRAM,
    "format_legacy_checkpoint": "Load it with a PyTorch that you trust it to, and save it again as safetensors.",
    "format_archive": "Unpack it, and send the weights file itself.",
    "format_keras": "Send a PyTorch network's state dict: Keras models are not taken.",
    "format_gguf": "Send an image classifier's state dict as safetensors: GGUF holds language models.",
    "format_numpy": "Name the arrays by the network's keys, and save them with `safetensors.numpy.save_file`.",
    "format_onnx": "Give `onnx` as the name of its architecture, or send the state dict as safetensors.",
    # A PyTorch checkpoint: worker/stages/kind.py, worker/stages/checkpoint.py
    "checkpoint_compressed": _PLAIN,
    "checkpoint_pickles": _PLAIN,
    "checkpoint_members": _PLAIN,
    "checkpoint_pickle_too_long": "Send the weights of one classifier, without the optimizer's state.",
    "checkpoint_byteorder": _PLAIN,
    "checkpoint_damaged": _PLAIN,
    "checkpoint_forbidden_global": _NO_PROGRAM,
    "checkpoint_not_a_state_dict": _PLAIN,
    "checkpoint_nested": "Put the state dict at the top, or under `state_dict` or `model`, and no deeper.",
    "checkpoint_not_tensors": "Leave what is no tensor out of the state dict.",
    "checkpoint_layout": "Send dense tensors: `tensor.to_dense()`, `tensor.dequantize()`.",
    "checkpoint_dtype": "Convert the tensor: `tensor.float()`.",
    "checkpoint_view": "Give the tensor numbers of its own: `tensor.contiguous().clone()`.",
    "checkpoint_shared": "Give each tensor numbers of its own: `tensor.clone()`.",
    # A zip file: worker/stages/zip_directory.py
    "zip_malformed": _ZIP_AGAIN,
    "zip_trailing_bytes": _ZIP_AGAIN,
    "zip_prefix": _ZIP_AGAIN,
    "zip_too_many_members": "A few hundred to a few thousand images are enough: send fewer.",
    "zip_contents_too_long": _ZIP_AGAIN,
    "zip_too_large": "A few hundred to a few thousand images are enough: send fewer, or smaller ones.",
    "zip_zip64": _ZIP_AGAIN,
    "zip_mismatch": _ZIP_AGAIN,
    "zip_overlap": _ZIP_AGAIN,
    "zip_name": "Name the files inside by plain relative paths, as in 0/a.png.",
    "zip_duplicate_name": "Give each file a name of its own.",
    "zip_link": "Put the files themselves into the zip file, not links to them.",
    "zip_encrypted": "Send the zip file without a password.",
    "zip_method": "Store the files, or use the usual deflate.",
    "zip_sizes": _ZIP_AGAIN,
    "zip_ratio": "Send images as PNG, JPEG or WebP, which are compressed already, and store them in the zip.",
    "weights_not_finite": "The network was saved after its training diverged, or the file is damaged: send another.",
    # An ONNX file: worker/stages/onnx_file.py
    "onnx_malformed": _EXPORT_AGAIN,
    "onnx_invalid": _EXPORT_AGAIN,
    "onnx_too_large": "Send a smaller network, or its weights as safetensors.",
    "onnx_version": "Export for an opset from 11 to 23, as in torch.onnx.export(…, opset_version=18).",
    "onnx_external_data": "Keep the weights in the file: torch.onnx.export(…, external_data=False).",
    "onnx_custom_domain": _EXPORT_PLAIN,
    "onnx_functions": "Inline them: onnx.inliner.inline_local_functions(model).",
    "onnx_control_flow": "Export by tracing, so that branches and loops are decided for one input.",
    "onnx_training_info": "Export for inference, without training information.",
    "onnx_sparse_tensor": _EXPORT_PLAIN,
    "onnx_unsupported_type": _EXPORT_PLAIN,
    "onnx_not_finite": "The network was saved after its training diverged, or the file is damaged: send another.",
    "onnx_name": "Name tensors with printable ASCII characters, at most 512.",
    "onnx_duplicate_name": _EXPORT_AGAIN,
    "onnx_undefined_input": _EXPORT_AGAIN,
    "onnx_not_sorted": "Sort the graph: each node has to come after those that it reads, and there must be no cycle.",
    "onnx_inputs": "Export a classifier with one float32 input (N, C, H, W) and one output (N, classes).",
    "onnx_differs": "This is a fault of ours, please report it. Or send the weights as safetensors.",
}
