"""Send one task to a running server and print its reply: python scripts/post.py"""

from __future__ import annotations

from _client import call, generate_task_id, parser, run, show

message = {
    "task_id": generate_task_id(),
    "task_id_must_unique": True,
    "prompt": "Two anthropomorphic cats in comfy boxing gear and bright gloves fight intensely on a spotlighted stage.",
    "negative_prompt": "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，JPEG压缩残留，丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走",  # noqa: E501
    "image_path": "",
    "save_video_path": "./output_lightx2v_wan_t2v_t02.mp4",
}


def main() -> int:
    """0 when the task was taken, 1 when it was refused."""
    arguments = parser("Send one text-to-video task.").parse_args()
    reply = call(arguments.url, "", message)
    show("reply", reply)
    return 0 if "task_id" in reply else 1


if __name__ == "__main__":
    run(main)
