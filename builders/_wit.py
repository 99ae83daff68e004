"""What WIT and IGLUE share: the columns of WIT's rows."""

from m2kr.schema import Column

WIT_COLUMNS = (
    Column("page_url", nullable=True, doc="Wikipedia page the passage is from."),
    Column("image_url", nullable=True, doc="Address of the image on Wikimedia."),
    Column("page_title", nullable=True, doc="Title of the page."),
    Column("section_title", nullable=True, doc="Title of the section that shows the image."),
    Column("hierarchical_section_title", nullable=True, doc="Titles from the page down to it."),
    Column("caption_reference_description", nullable=True, doc="Caption beside the image."),
    Column("caption_attribution_description", nullable=True, doc="Text of the image's own page."),
    Column("caption_alt_text_description", nullable=True, doc="Alternative text of the image."),
    Column("mime_type", nullable=True, doc="Type of the image file."),
    Column("original_height", "int64", nullable=True, doc="Height in pixels upstream."),
    Column("original_width", "int64", nullable=True, doc="Width in pixels upstream."),
    Column("is_main_image", "bool", nullable=True, doc="Whether it is the page's main image."),
    Column(
        "attribution_passes_lang_id", "bool", nullable=True, doc="Attribution is in the language."
    ),
    Column(
        "page_changed_recently", "bool", nullable=True, doc="The page changed before the snapshot."
    ),
    Column("context_page_description", nullable=True, doc="First text of the page."),
    Column("context_section_description", nullable=True, doc="First text of the section."),
    Column("image_id", nullable=True, doc="md5 of the image's address."),
    Column("original_data_id", nullable=True, doc="Split and row number in WIT."),
    Column("image_downloaded", "bool", nullable=True, doc="The authors had the image."),
)
