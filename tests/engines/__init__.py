"""The router before real engines: llama.cpp always, vLLM and SGLang on the CPU where installed."""
