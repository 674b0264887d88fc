"""Qwen3-TTS: opening a base, prompt layouts, losses, row subsets, language rows, speaking. The only importer of qwen_tts."""
