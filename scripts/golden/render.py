"""Chat templates through the environment that transformers itself builds."""

from transformers.utils.chat_template_utils import render_jinja_template


def render(template, messages, tools=None, add_generation_prompt=False, **variables):
    """The text, or `{"error": ...}` when the template refuses the messages through raise_exception."""
    try:
        rendered, _ = render_jinja_template(
            conversations=[messages],
            tools=tools,
            chat_template=template,
            add_generation_prompt=add_generation_prompt,
            **variables,
        )
    except Exception as error:
        if type(error).__name__ != "TemplateError":
            raise
        return {"error": str(error)}
    return {"text": rendered[0]}
